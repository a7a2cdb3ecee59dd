{{- /* What the templates ask. `just chart` adds bitfusiond.options, from the same table as the templates. */ -}}

{{- /* Which overlay of the manifests fits the API server. */ -}}
{{- define "bitfusiond.platform" -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- if and (eq .Values.platform "tkgi") (semverCompare "<1.25-0" $version) -}}
tkgi
{{- else if and (ne .Values.platform "legacy") (semverCompare ">=1.28-0" $version) -}}
community
{{- else -}}
legacy
{{- end -}}
{{- end -}}

{{- define "bitfusiond.resourceNums" -}}
{{ int64 (default DEFAULT_RESOURCE_NUMS .Values.resourceNums) }}
{{- end -}}

{{- /* An image of ours by its name. */ -}}
{{- define "bitfusiond.image" -}}
{{- $values := .root.Values.image -}}
{{ $values.repository }}/{{ .name }}:{{ default .root.Chart.AppVersion $values.tag }}
{{- with index $values.digests .name }}@{{ . }}{{ end -}}
{{- end -}}
