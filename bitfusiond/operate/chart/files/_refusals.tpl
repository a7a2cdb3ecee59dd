{{- /* What no schema can say, all of it at once. Each template below prints a line for each problem. */ -}}
{{- define "bitfusiond.refusals" -}}
{{- $wrong := list -}}
{{- range list "release" "forms" "namespaces" "clients" "pool" "delivery" -}}
{{- range include (printf "bitfusiond.wrong.%s" .) $ | splitList "\n" -}}
{{- with trim . }}{{ $wrong = append $wrong . }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with $wrong -}}
{{- fail (printf "nothing was changed:\n  - %s\n" (join "\n  - " .)) -}}
{{- end -}}
{{- end -}}

{{- define "bitfusiond.wrong.release" -}}
{{- if ne .Release.Namespace "bwki" }}
the release must be in the namespace bwki, not {{ .Release.Namespace }}: add -n bwki
{{- end }}
{{- $there := lookup "apps/v1" "Deployment" "bwki" "bitfusion-webhook-deployment" }}
{{- if and $there (ne (dig "metadata" "labels" "app.kubernetes.io/managed-by" "" $there) "Helm") }}
bitfusiond is here, and not by Helm: `just uninstall` first, then install; your token Secrets stay
{{- end }}
{{- end -}}

{{- /* Whether namespaces are there is asked where a cluster can be: `helm template` finds none at all. */ -}}
{{- define "bitfusiond.wrong.namespaces" -}}
{{- $on := include "bitfusiond.options" . | fromYaml }}
{{- if and .Values.allowNamespaces (not $on.namespaces) }}
allowNamespaces: no pod of {{ join ", " .Values.allowNamespaces }} is ever served: name a namespace whose pods may receive tokens
{{- end }}
{{- if lookup "v1" "Namespace" "" "kube-system" }}
{{- $tokens := .Values.tokenNamespace }}
{{- if not (or (eq $tokens "bwki") (lookup "v1" "Namespace" "" $tokens)) }}
tokenNamespace: there is no namespace {{ $tokens | quote }}: make it first, or name the one where the Secrets of your tokens are
{{- end }}
{{- range ternary $on.namespaces (list) $on.named }}
{{- if not (lookup "v1" "Namespace" "" .) }}
allowNamespaces: there is no namespace {{ . | quote }}: make it first, or leave it out
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "bitfusiond.wrong.clients" -}}
{{- with .Values.clients }}
{{- $read := fromYaml . }}
{{- if not (or $read.BitfusionClients $read.Clients) }}
clients: not a catalogue, which has BitfusionClients or Clients: give its text by --set-file clients=FILE{{ include "bitfusiond.said" $read }}
{{- else }}
{{- include "bitfusiond.wrong.items" (dict "of" "clients: BitfusionClients" "items" $read.BitfusionClients "texts" (list "BitfusionVersion" "OSVersion" "BinaryPath" "EnvVariable")) }}
{{- include "bitfusiond.wrong.items" (dict "of" "clients: Clients" "items" $read.Clients "texts" (list "Name")) }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "bitfusiond.wrong.pool" -}}
{{- with .Values.pool }}
{{- $read := fromYaml . }}
{{- if not $read.servers }}
pool: not an inventory, which has servers: give its text by --set-file pool=FILE{{ include "bitfusiond.said" $read }}
{{- else }}
{{- include "bitfusiond.wrong.items" (dict "of" "pool: servers" "items" $read.servers "texts" (list "name" "address") "lists" (list "gpus")) }}
{{- end }}
{{- if not $.Values.resourceNums }}
resourceNums: with a pool give the shares that it has, which each node offers: 100 for each GPU (100 x memory / smallest memory, rounded up, where memories differ)
{{- end }}
{{- if semverCompare "<1.36-0" $.Capabilities.KubeVersion.Version }}
pool: the API server is {{ $.Capabilities.KubeVersion.Version }}; a pool is counted once from 1.36 on: leave it empty
{{- end }}
{{- end }}
{{- end -}}

{{- define "bitfusiond.wrong.delivery" -}}
{{- if and (eq .Values.delivery "image") (semverCompare "<1.36-0" .Capabilities.KubeVersion.Version) }}
delivery: the API server is {{ .Capabilities.KubeVersion.Version }}; images are mounted from 1.36 on: delivery=init
{{- end }}
{{- end -}}

{{- /* What is wrong with .items, mappings that must have .texts, which are strings, and .lists. */ -}}
{{- define "bitfusiond.wrong.items" -}}
{{- $asked := . }}
{{- if not (or (kindIs "invalid" .items) (kindIs "slice" .items)) }}
{{ .of }} must be a list
{{- else }}
{{- range $index, $each := .items }}
{{- $at := printf "%s[%d]" $asked.of $index }}
{{- if not (kindIs "map" $each) }}
{{ $at }} must be a mapping of {{ concat $asked.texts (default list $asked.lists) | join ", " }}
{{- else }}
{{- range $asked.texts }}
{{- $text := get $each . }}
{{- /* A version without quotation marks is a number, and means the same. */}}
{{- $number := and (eq . "BitfusionVersion") (has (kindOf $text) (list "float64" "int64" "int")) }}
{{- if not (or $number (and (kindIs "string" $text) (trim (toString $text)))) }}
{{ $at }}.{{ . }} must be a string that is not empty, not {{ toJson $text | trunc 100 }}
{{- end }}
{{- end }}
{{- range $asked.lists }}
{{- if not (and (kindIs "slice" (get $each .)) (get $each .)) }}
{{ $at }}.{{ . }} must be a list that is not empty, not {{ toJson (get $each .) | trunc 100 }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* What YAML's reader had to say. */ -}}
{{- define "bitfusiond.said" -}}
{{- with .Error }} ({{ . | replace "\n" " " }}){{ end -}}
{{- end -}}

{{- /* How a text is called that is the whole value, or an item of it. */ -}}
{{- define "bitfusiond.place" -}}
{{- $place := last . -}}
{{ first . }}
{{- if not (kindIs "string" $place) }}[{{ $place }}]{{ else if $place }}.{{ $place }}{{ end -}}
{{- end -}}
