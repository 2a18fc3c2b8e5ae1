{{/* Names, labels, and the image. */}}

{{- define "gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "gateway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* With an ending, still within 63 characters: dict "root" $ "ending" "admin" */}}
{{- define "gateway.named" -}}
{{- $room := sub 62 (len .ending) | int -}}
{{- printf "%s-%s" (include "gateway.fullname" .root | trunc $room | trimSuffix "-") .ending -}}
{{- end }}

{{- define "gateway.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end }}

{{- define "gateway.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* Immutable in a workload, so there is nothing in it that ever changes. */}}
{{- define "gateway.selectorLabels" -}}
app.kubernetes.io/name: {{ include "gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Without the selector's: for what no Service may take for the gateway. */}}
{{- define "gateway.commonLabels" -}}
helm.sh/chart: {{ include "gateway.chart" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ include "gateway.name" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selectorLabels" . }}
app.kubernetes.io/component: gateway
{{ include "gateway.commonLabels" . }}
{{- end }}

{{/* Annotations of an object, if there are any: dict "root" $ "more" MAP. Values may be templates. */}}
{{- define "gateway.annotations" -}}
{{- $all := merge (dict) (default (dict) .more) .root.Values.commonAnnotations -}}
{{- if $all -}}
annotations:
{{- range $name, $value := $all }}
  {{ $name }}: {{ tpl (toString $value) $.root | quote }}
{{- end }}
{{- end -}}
{{- end }}

{{- define "gateway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "gateway.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "gateway.image" -}}
{{- $registry := default .Values.image.registry .Values.global.imageRegistry -}}
{{- $name := ternary (printf "%s/%s" $registry .Values.image.repository) .Values.image.repository (ne $registry "") -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end }}

{{/* What the public port speaks. */}}
{{- define "gateway.scheme" -}}
{{- ternary "https" "http" (not (empty .Values.config.http.tls_certificate_file)) -}}
{{- end }}

{{/* A duration of gateway.toml or of Prometheus in milliseconds; what is none counts as 0. */}}
{{- define "gateway.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+ ?[a-z]+" (toString .) -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $unit = ternary "ms" (trunc 1 $unit) (or (eq $unit "ms") (eq $unit "msec")) -}}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | int64) (get $units $unit | default 0 | int64)) -}}
{{- end -}}
{{- $sum -}}
{{- end }}

{{- define "gateway.notifyPath" -}}
{{- default "/alipay/notify" .Values.config.http.path -}}
{{- end }}

{{/* The Secret of a group of values that has existingSecret: dict "root" $ "group" MAP "ending" "amqp" */}}
{{- define "gateway.secretName" -}}
{{- default (include "gateway.named" (dict "root" .root "ending" .ending)) .group.existingSecret -}}
{{- end }}
