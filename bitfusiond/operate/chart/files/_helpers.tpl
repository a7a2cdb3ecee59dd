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

{{- /* What no schema can say, all of it at once. */ -}}
{{- define "bitfusiond.refusals" -}}
{{- $wrong := list -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- if ne .Release.Namespace "bwki" -}}
{{- $wrong = append $wrong (printf "the release must be in the namespace bwki, not %s: add -n bwki" .Release.Namespace) -}}
{{- end -}}
{{- $there := lookup "apps/v1" "Deployment" "bwki" "bitfusion-webhook-deployment" -}}
{{- if and $there (ne (dig "metadata" "labels" "app.kubernetes.io/managed-by" "" $there) "Helm") -}}
{{- $wrong = append $wrong "bitfusiond is here, and not by Helm: `just uninstall` first, then install; your token Secrets stay" -}}
{{- end -}}
{{- with .Values.clients -}}
{{- $read := fromYaml . -}}
{{- if not (or $read.BitfusionClients $read.Clients) -}}
{{- $wrong = append $wrong (printf "clients: not a catalogue, which has BitfusionClients or Clients: give its text by --set-file clients=FILE%s" (include "bitfusiond.said" $read)) -}}
{{- end -}}
{{- end -}}
{{- with .Values.pool -}}
{{- $read := fromYaml . -}}
{{- if not $read.servers -}}
{{- $wrong = append $wrong (printf "pool: not an inventory, which has servers: give its text by --set-file pool=FILE%s" (include "bitfusiond.said" $read)) -}}
{{- end -}}
{{- if not $.Values.resourceNums -}}
{{- $wrong = append $wrong "resourceNums: with a pool give the shares that it has, which each node offers: 100 for each GPU (100 x memory / smallest memory, rounded up, where memories differ)" -}}
{{- end -}}
{{- if semverCompare "<1.36-0" $version -}}
{{- $wrong = append $wrong (printf "pool: the API server is %s; a pool is counted once from 1.36 on: leave it empty" $version) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.delivery "image") (semverCompare "<1.36-0" $version) -}}
{{- $wrong = append $wrong (printf "delivery: the API server is %s; images are mounted from 1.36 on: delivery=init" $version) -}}
{{- end -}}
{{- with $wrong -}}
{{- fail (printf "nothing was changed:\n  - %s\n" (join "\n  - " .)) -}}
{{- end -}}
{{- end -}}

{{- /* What YAML's reader had to say. */ -}}
{{- define "bitfusiond.said" -}}
{{- with .Error }} ({{ . | replace "\n" " " }}){{ end -}}
{{- end -}}
