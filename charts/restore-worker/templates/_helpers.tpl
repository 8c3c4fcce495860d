{{/* The defaults of the worker with the release's configuration over them, as YAML. */}}
{{- define "restore-worker.inForce" -}}
{{- $defaults := .Files.Get "files/defaults.yaml" | fromYaml -}}
{{- mergeOverwrite $defaults (include "restore-worker.config" . | fromYaml) | toYaml -}}
{{- end -}}

{{- define "restore-worker.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "restore-worker.fullname" -}}
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
{{- end -}}

{{- define "restore-worker.selector" -}}
app.kubernetes.io/name: {{ include "restore-worker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: worker
{{- end -}}

{{- define "restore-worker.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "restore-worker.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: restore
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "restore-worker.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "restore-worker.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "restore-worker.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "restore-worker.secretName" -}}
{{- default (include "restore-worker.fullname" .) .Values.secrets.existingSecret -}}
{{- end -}}

{{/* Non-empty if any key of the Secret is used. */}}
{{- define "restore-worker.secretUsed" -}}
{{- range $key := values .Values.secrets.keys }}{{ $key }}{{ end -}}
{{- end -}}

{{/* What the worker's file says: what follows from the chart's values, and config over it. */}}
{{- define "restore-worker.config" -}}
{{- $secret := "/etc/restore-worker/secrets/" -}}
{{- $broker := dict -}}
{{- $tls := dict -}}
{{- $storage := dict -}}
{{- $exchange := dict -}}
{{- $identity := dict -}}
{{- with .Values.secrets.keys.brokerUri }}{{ $_ := set $broker "uri_file" (print $secret .) }}{{ end -}}
{{- with .Values.secrets.keys.brokerPassword }}{{ $_ := set $broker "password_file" (print $secret .) }}{{ end -}}
{{- with .Values.secrets.keys.clientSecret }}{{ $_ := set $identity "client_secret_file" (print $secret .) }}{{ end -}}
{{- with .Values.secrets.keys.certificate }}{{ $_ := set $identity "certificate_file" (print $secret .) }}{{ end -}}
{{- with .Values.secrets.keys.certificatePassword }}{{ $_ := set $identity "certificate_password_file" (print $secret .) }}{{ end -}}
{{- if .Values.brokerTls.existingSecret -}}
{{- $_ := set $tls "cert_file" "/etc/restore-worker/broker-tls/tls.crt" -}}
{{- $_ := set $tls "key_file" "/etc/restore-worker/broker-tls/tls.key" -}}
{{- end -}}
{{- if .Values.caBundle.configMap -}}
{{- $ca := print "/etc/restore-worker/ca/" .Values.caBundle.key -}}
{{- if has "broker" .Values.caBundle.for }}{{ $_ := set $tls "ca_file" $ca }}{{ end -}}
{{- if has "storage" .Values.caBundle.for }}{{ $_ := set $storage "ca_file" $ca }}{{ end -}}
{{- if has "exchange" .Values.caBundle.for }}{{ $_ := set $exchange "ca_file" $ca }}{{ end -}}
{{- end -}}
{{- if .Values.workloadIdentity.enabled -}}
{{- $_ := set $identity "kind" "workload_identity" -}}
{{- with .Values.workloadIdentity.clientId }}{{ $_ := set $identity "client_id" . }}{{ end -}}
{{- with .Values.workloadIdentity.tenantId }}{{ $_ := set $identity "tenant_id" . }}{{ end -}}
{{- end -}}
{{- if $tls }}{{ $_ := set $broker "tls" $tls }}{{ end -}}
{{- $config := dict -}}
{{- if $broker }}{{ $_ := set $config "broker" $broker }}{{ end -}}
{{- if $storage }}{{ $_ := set $config "storage" $storage }}{{ end -}}
{{- if $exchange }}{{ $_ := set $config "exchange" $exchange }}{{ end -}}
{{- if $identity }}{{ $_ := set $config "identity" $identity }}{{ end -}}
{{- $own := deepCopy .Values.config -}}
{{- /* Helm's YAML reads a bare off as false. */ -}}
{{- if eq (toString (get $own "preflight")) "false" }}{{ $_ := set $own "preflight" "off" }}{{ end -}}
{{- mergeOverwrite $config $own | toYaml -}}
{{- end -}}

{{/* 500ms, 30s, 5m, 2h, 1d → whole seconds, rounded up. */}}
{{- define "restore-worker.seconds" -}}
{{- $n := regexFind "^[0-9]+" . | int64 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- if eq $unit "ms" }}{{ div (add $n 999) 1000 }}
{{- else if eq $unit "s" }}{{ $n }}
{{- else if eq $unit "m" }}{{ mul $n 60 }}
{{- else if eq $unit "h" }}{{ mul $n 3600 }}
{{- else }}{{ mul $n 86400 }}{{ end -}}
{{- end -}}

{{- define "restore-worker.terminationGracePeriodSeconds" -}}
{{- $grace := (include "restore-worker.inForce" . | fromYaml).shutdown.grace -}}
{{- add (include "restore-worker.seconds" $grace | int64) .Values.termination.marginSeconds -}}
{{- end -}}

{{/* The port of host:port. */}}
{{- define "restore-worker.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}

{{- define "restore-worker.adminPort" -}}
{{- include "restore-worker.port" (include "restore-worker.inForce" . | fromYaml).admin.listen -}}
{{- end -}}

{{/* The queues whose messages are work: jobs, and the shards of the present and the previous layout. A regular expression. */}}
{{- define "restore-worker.queues" -}}
{{- $config := include "restore-worker.inForce" . | fromYaml -}}
{{- $prefix := $config.broker.prefix | replace "." "[.]" -}}
{{- $jobs := default (printf "%s.jobs" $config.broker.prefix) $config.broker.queue | replace "." "[.]" -}}
{{- $shards := $config.fleet.shards | int64 | toString -}}
{{- with $config.fleet.previous_shards }}{{ $shards = printf "(%s|%d)" $shards (. | int64) }}{{ end -}}
{{- printf "^(%s|%s[.]shards[.]%s[.][0-9]+)$" $jobs $prefix $shards -}}
{{- end -}}

{{/* What cannot be meant. Included by the Deployment, which is always rendered. */}}
{{- define "restore-worker.refuse" -}}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled -}}
{{- fail "autoscaling.enabled and keda.enabled exclude each other: two autoscalers on one Deployment fight; choose keda (it knows how many jobs wait) or autoscaling" -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled -}}
{{- fail "podMonitor.enabled and serviceMonitor.enabled exclude each other: every worker would be scraped, and every job counted, twice" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.service.enabled) -}}
{{- fail "serviceMonitor.enabled needs service.enabled" -}}
{{- end -}}
{{- if and .Values.secrets.existingSecret .Values.secrets.values -}}
{{- fail "secrets.existingSecret and secrets.values exclude each other: the chart does not write into a Secret of yours" -}}
{{- end -}}
{{- if not .Values.secrets.existingSecret -}}
{{- range $name, $key := .Values.secrets.keys -}}
{{- if and $key (not (hasKey $.Values.secrets.values $key)) -}}
{{- fail (printf "secrets.keys.%s names the key %s, but secrets.values has no such key and secrets.existingSecret is empty" $name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if hasPrefix "RESTORE_WORKER__" .name -}}
{{- fail (printf "extraEnv: %s belongs into config (the chart derives ports and grace periods from it)" .name) -}}
{{- end -}}
{{- end -}}
{{- $config := include "restore-worker.inForce" . | fromYaml -}}
{{- if and (eq $config.ledger.store "s3") (not $config.ledger.bucket) -}}
{{- fail "config.ledger.bucket must be set (or choose config.ledger.store none by name: then a job can be done twice)" -}}
{{- end -}}
{{- if and (eq $config.broker.auth "external") (not $config.broker.tls.cert_file) -}}
{{- fail "config.broker.auth external needs brokerTls.existingSecret" -}}
{{- end -}}
{{- if and .Values.keda.enabled (eq .Values.keda.source "managementApi") (not (or .Values.keda.managementApi.existingSecret .Values.keda.managementApi.url)) -}}
{{- fail "keda.managementApi.existingSecret must name a Secret with the management API's URL" -}}
{{- end -}}
{{- if and .Values.keda.managementApi.existingSecret .Values.keda.managementApi.url -}}
{{- fail "keda.managementApi.existingSecret and keda.managementApi.url exclude each other" -}}
{{- end -}}
{{- if and .Values.keda.enabled (eq .Values.keda.source "prometheus") (not .Values.keda.prometheus.serverAddress) -}}
{{- fail "keda.prometheus.serverAddress must be set" -}}
{{- end -}}
{{- if not (or (dig "broker" "uri" "" .Values.config) .Values.secrets.keys.brokerUri .Values.extraEnvFrom) -}}
{{- fail "the broker is not named: set config.broker.uri, or secrets.keys.brokerUri to the key of a Secret that holds the URI" -}}
{{- end -}}
{{- range tuple "autoscaling" "keda" -}}
{{- $scaling := get $.Values . -}}
{{- if gt (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas) -}}
{{- fail (printf "%s.minReplicas is more than %s.maxReplicas" . .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The pods' mounts. */}}
{{- define "restore-worker.mounts" -}}
- name: config
  mountPath: /etc/restore-worker/restore-worker.yaml
  subPath: restore-worker.yaml
  readOnly: true
{{- if include "restore-worker.secretUsed" . }}
- name: secrets
  mountPath: /etc/restore-worker/secrets
  readOnly: true
{{- end }}
{{- if .Values.brokerTls.existingSecret }}
- name: broker-tls
  mountPath: /etc/restore-worker/broker-tls
  readOnly: true
{{- end }}
{{- if .Values.caBundle.configMap }}
- name: ca
  mountPath: /etc/restore-worker/ca
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The environment of worker and check. */}}
{{- define "restore-worker.environment" -}}
env:
  - name: HOSTNAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  {{- with .Values.secrets.keys.awsCredentials }}
  - name: AWS_SHARED_CREDENTIALS_FILE
    value: /etc/restore-worker/secrets/{{ . }}
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "restore-worker.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}
