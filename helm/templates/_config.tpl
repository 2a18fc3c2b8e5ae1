{{/*
gateway.toml, in two halves. What takes effect only at a start is in the pod's checksum; apps, keys, [freshness] and
[event] are not, because the gateway loads those again by itself when the mounted file changes.
A JSON text, number, flag or list of texts is a TOML one, too.
*/}}

{{- define "gateway.section" -}}
[{{ .name }}]
{{- range $key, $value := .keys }}
{{ $key }} = {{ toRawJson $value }}
{{- end }}
{{ end }}

{{- define "gateway.config.fixed" -}}
{{- $config := .Values.config -}}
{{- include "gateway.section" (dict "name" "http" "keys" (merge (dict "listen" "0.0.0.0:8080") $config.http)) }}
{{- $admin := dict "listen" "0.0.0.0:9090" -}}
{{- if or .Values.adminToken.existingSecret .Values.adminToken.value -}}
{{- $_ := set $admin "token_file" "/etc/gateway/admin/token" -}}
{{- end }}
{{ include "gateway.section" (dict "name" "admin" "keys" (merge $admin $config.admin)) }}
{{- $amqp := dict "uri_file" "/etc/gateway/amqp/uri" -}}
{{- with .Values.amqp.tls }}
{{- if .existingSecret }}
{{- range $key, $entry := dict "ca_file" .caKey "client_certificate_file" .certificateKey "client_key_file" .keyKey }}
{{- if $entry }}
{{- $_ := set $amqp $key (printf "/etc/gateway/amqp-tls/%s" $entry) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{ include "gateway.section" (dict "name" "amqp" "keys" (merge $amqp $config.amqp)) }}
{{- range $name, $queue := .Values.amqp.queues }}
[[amqp.queues]]
name = {{ toRawJson $name }}
bind = {{ toRawJson $queue.bind }}
{{ end }}
{{- with $config.publication }}
{{ include "gateway.section" (dict "name" "publication" "keys" .) }}
{{- end }}
{{- $store := dict "engine" .Values.store.engine -}}
{{- if eq .Values.store.engine "redis" -}}
{{- $_ := set $store "uri_file" "/etc/gateway/redis/uri" -}}
{{- else -}}
{{- $_ := set $store "path" "/data/gateway.db" -}}
{{- end }}
{{ include "gateway.section" (dict "name" "store" "keys" (merge $store $config.store)) }}
{{- with $config.runtime }}
{{ include "gateway.section" (dict "name" "runtime" "keys" .) }}
{{- end }}
{{ include "gateway.section" (dict "name" "shutdown" "keys" $config.shutdown) }}
{{- with $config.log }}
{{ include "gateway.section" (dict "name" "log" "keys" .) }}
{{- end }}
{{- with $config.traces }}
{{ include "gateway.section" (dict "name" "traces" "keys" .) }}
{{- end }}
{{- end }}

{{- define "gateway.config.reloaded" -}}
{{- with .Values.config.freshness }}
{{ include "gateway.section" (dict "name" "freshness" "keys" .) }}
{{- end }}
{{- with .Values.config.event }}
{{ include "gateway.section" (dict "name" "event" "keys" .) }}
{{- end }}
{{- range $id, $app := .Values.apps }}
[[apps]]
app_id = {{ toRawJson $id }}
{{- with $app.environment }}
environment = {{ toRawJson . }}
{{- end }}
{{- with $app.sellerIds }}
seller_ids = {{ toRawJson . }}
{{- end }}
alipay_public_keys = {{ include "gateway.keyFiles" $app.alipayPublicKeys }}
{{- with $app.shadowPublicKeys }}
shadow_public_keys = {{ include "gateway.keyFiles" . }}
{{- end }}
{{- with $app.signType }}
sign_type = {{ toRawJson . }}
{{- end }}
{{ end }}
{{- end }}

{{- define "gateway.keyFiles" -}}
[{{ range $index, $name := . }}{{ if $index }}, {{ end }}{{ printf "/etc/gateway/keys/%s" $name | toRawJson }}{{ end }}]
{{- end }}
