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
{{- $shutdown := default (dict) $values.config.shutdown -}}
{{- $delay := include "gateway.milliseconds" (default "0s" $shutdown.delay) | int64 -}}
{{- $grace := include "gateway.milliseconds" (default "25s" $shutdown.grace) | int64 -}}
{{- $least := div (add $delay $grace 5999) 1000 -}}
{{- if lt (int64 $values.terminationGracePeriodSeconds) $least -}}
{{- fail (printf "terminationGracePeriodSeconds: the pod would be killed while it stops in order. It must be %d or more: config.shutdown.delay and config.shutdown.grace together, and 5 s." $least) -}}
{{- end -}}
{{- range $name := list "autoscaling" "keda" -}}
{{- $scaling := get $values $name -}}
{{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- fail (printf "%s.minReplicas is more than %s.maxReplicas." $name $name) -}}
{{- end -}}
{{- end -}}
{{- with $values.metrics.serviceMonitor -}}
{{- if and .enabled (gt (include "gateway.milliseconds" .scrapeTimeout | int64) (include "gateway.milliseconds" .interval | int64)) -}}
{{- fail "metrics.serviceMonitor.scrapeTimeout is longer than metrics.serviceMonitor.interval: Prometheus would refuse it." -}}
{{- end -}}
{{- end -}}
{{- if and $values.keda.enabled (not $values.keda.query) (not $values.metrics.serviceMonitor.enabled) -}}
{{- fail "keda: its query asks for labels that a ServiceMonitor gives, and without an answer nothing is ever scaled. Set metrics.serviceMonitor.enabled=true, or keda.query to what your own scrape has." -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.hosts) -}}
{{- fail "ingress.hosts: there is none. Set ingress.hosts to [{host: your.host}], or ingress.enabled=false." -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: there is none. Set it to the Gateway that the route belongs to, or httpRoute.enabled=false." -}}
{{- end -}}
{{- end }}
