{{/* The pod, the same in both shapes but for the volume of the SQLite store and the spread of the Redis one. */}}
{{- define "gateway.pod" -}}
{{- $redis := eq .Values.store.engine "redis" -}}
metadata:
  labels:
    {{- include "gateway.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Of what takes effect only at a start. Apps and keys are loaded again without one, so they are not in it.
    checksum/config: {{ include "gateway.config.fixed" . | sha256sum }}
    checksum/secret: {{ list .Values.amqp.uri .Values.adminToken.value .Values.store.redis.uri | join "|" | sha256sum }}
    {{- range $name, $value := merge (dict) .Values.podAnnotations .Values.commonAnnotations }}
    {{ $name }}: {{ tpl (toString $value) $ | quote }}
    {{- end }}
spec:
  serviceAccountName: {{ include "gateway.serviceAccountName" . }}
  automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  containers:
    - name: gateway
      image: {{ include "gateway.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - serve
        - --config
        - /etc/gateway/config/gateway.toml
        {{- range .Values.extraArgs }}
        - {{ tpl . $ | quote }}
        {{- end }}
      {{- with .Values.extraEnv }}
      env:
        {{- range $name, $value := . }}
        - name: {{ $name }}
          value: {{ tpl $value $ | quote }}
        {{- end }}
      {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- tpl (toYaml .) $ | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: 8080
          protocol: TCP
        - name: metrics
          containerPort: 9090
          protocol: TCP
      {{- with .Values.startupProbe }}
      startupProbe:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.livenessProbe }}
      livenessProbe:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.readinessProbe }}
      readinessProbe:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.lifecycle }}
      lifecycle:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        # Whole folders, never a subPath: only those are exchanged when a ConfigMap or a Secret changes.
        - name: config
          mountPath: /etc/gateway/config
          readOnly: true
        - name: keys
          mountPath: /etc/gateway/keys
          readOnly: true
        - name: amqp
          mountPath: /etc/gateway/amqp
          readOnly: true
        {{- if .Values.amqp.tls.existingSecret }}
        - name: amqp-tls
          mountPath: /etc/gateway/amqp-tls
          readOnly: true
        {{- end }}
        {{- if or .Values.adminToken.existingSecret .Values.adminToken.value }}
        - name: admin
          mountPath: /etc/gateway/admin
          readOnly: true
        {{- end }}
        {{- if $redis }}
        - name: redis
          mountPath: /etc/gateway/redis
          readOnly: true
        {{- else }}
        - name: data
          mountPath: /data
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- tpl (toYaml .) $ | nindent 8 }}
        {{- end }}
    {{- with .Values.extraContainers }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "gateway.fullname" . }}
        defaultMode: 0440
    - name: keys
      secret:
        secretName: {{ include "gateway.secretName" (dict "root" . "group" .Values.keys "ending" "keys") }}
        defaultMode: 0440
    - name: amqp
      secret:
        secretName: {{ include "gateway.secretName" (dict "root" . "group" .Values.amqp "ending" "amqp") }}
        defaultMode: 0440
        items:
          - key: {{ .Values.amqp.existingSecretKey }}
            path: uri
    {{- with .Values.amqp.tls.existingSecret }}
    - name: amqp-tls
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- if or .Values.adminToken.existingSecret .Values.adminToken.value }}
    - name: admin
      secret:
        secretName: {{ include "gateway.secretName" (dict "root" . "group" .Values.adminToken "ending" "admin") }}
        defaultMode: 0440
        items:
          - key: {{ .Values.adminToken.existingSecretKey }}
            path: token
    {{- end }}
    {{- if $redis }}
    - name: redis
      secret:
        secretName: {{ include "gateway.secretName" (dict "root" . "group" .Values.store.redis "ending" "redis") }}
        defaultMode: 0440
        items:
          - key: {{ .Values.store.redis.existingSecretKey }}
            path: uri
    {{- else if .Values.store.persistence.existingClaim }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ .Values.store.persistence.existingClaim }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.affinity }}
  affinity:
    {{- tpl (toYaml .Values.affinity) $ | nindent 4 }}
  {{- else if $redis }}
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "gateway.selectorLabels" . | nindent 16 }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- tpl (toYaml .Values.topologySpreadConstraints) $ | nindent 4 }}
  {{- else if $redis }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "gateway.selectorLabels" $ | nindent 10 }}
    {{- end }}
  {{- end }}
{{- end }}
