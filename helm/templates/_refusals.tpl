{{/* What a schema cannot say, or what an install without one (--skip-schema-validation) must not get past. */}}
{{- define "gateway.refuse" -}}
{{- $values := .Values -}}
{{- if not $values.apps -}}
{{- fail "apps: there is none. Set apps.\"YOUR-APP-ID\".alipayPublicKeys to the names of files in keys.existingSecret (or keys.files)." -}}
{{- end -}}
{{- if not (or $values.keys.existingSecret $values.keys.files) -}}
{{- fail "keys: there is none. Set keys.existingSecret to a Secret whose entries are Alipay's public keys, or keys.files." -}}
{{- end -}}
{{- if not (or $values.amqp.existingSecret $values.amqp.uri) -}}
{{- fail "amqp: there is no broker. Set amqp.existingSecret to a Secret that has its URI under amqp.existingSecretKey, or amqp.uri." -}}
{{- end -}}
{{- if eq $values.store.engine "redis" -}}
{{- if not (or $values.store.redis.existingSecret $values.store.redis.uri) -}}
{{- fail "store.redis: there is no Redis. Set store.redis.existingSecret to a Secret that has its URI, or store.redis.uri." -}}
{{- end -}}
{{- else -}}
{{- if or (gt (int $values.replicaCount) 1) $values.autoscaling.enabled $values.keda.enabled -}}
{{- fail "replicaCount: a SQLite store belongs to exactly one gateway. Leave replicaCount at 1 and do not scale, or set store.engine=redis and store.redis.existingSecret." -}}
{{- end -}}
{{- end -}}
{{- if $values.keys.files -}}
{{- range $id, $app := $values.apps -}}
{{- range concat $app.alipayPublicKeys (default (list) $app.shadowPublicKeys) -}}
{{- if not (hasKey $values.keys.files .) -}}
{{- fail (printf "apps.%s names the key %s, which is not in keys.files: add it there, or correct the name." $id .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.hosts) -}}
{{- fail "ingress.hosts: there is none. Set ingress.hosts to [{host: your.host}], or ingress.enabled=false." -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: there is none. Set it to the Gateway that the route belongs to, or httpRoute.enabled=false." -}}
{{- end -}}
{{- end }}
