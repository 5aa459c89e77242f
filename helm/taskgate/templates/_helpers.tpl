{{- define "taskgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "taskgate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "taskgate.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "taskgate.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "taskgate.selector" -}}
app.kubernetes.io/name: {{ include "taskgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "taskgate.labels" -}}
{{ include "taskgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: taskgate
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "taskgate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "taskgate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* An image by its digest: (dict "of" "guard" "image" .Values.guard.image) */}}
{{- define "taskgate.image" -}}
{{- $repository := required (printf "%s.image.repository: name the image that the Dockerfile's target %s makes" .of .of) .image.repository -}}
{{- $digest := required (printf "%s.image.digest: give the image's digest (sha256:...); a tag can be moved" .of) .image.digest -}}
{{- printf "%s@%s" $repository $digest -}}
{{- end }}

{{- define "taskgate.podSecurity" -}}
automountServiceAccountToken: false
serviceAccountName: {{ include "taskgate.serviceAccount" . }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.podSecurity.runAsUser }}
  runAsGroup: {{ .Values.podSecurity.runAsGroup }}
  fsGroup: {{ .Values.podSecurity.fsGroup }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "taskgate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where pods run: the component's own values */}}
{{- define "taskgate.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The init container that verifies the model volume; for other charts too, with volumes `models` and `verify-keys` and `tmp` */}}
{{- define "taskgate.verify.container" -}}
{{- $v := .Values.verify -}}
{{- if not $v.policyDigests }}
{{- fail "verify.policyDigests: name the digests of the policies that are allowed (gate policy validate prints one)" }}
{{- end -}}
name: verify
image: {{ include "taskgate.image" (dict "of" "verify" "image" $v.image) | quote }}
imagePullPolicy: {{ $v.image.pullPolicy }}
args:
  - --candidate={{ $v.model.path }}
  {{- with $v.model.base }}
  - --base={{ . }}
  {{- end }}
  - --attestation={{ $v.attestation }}
  {{- range $v.keys }}
  - --key=/etc/taskgate/keys/{{ . }}
  {{- end }}
  {{- range $v.policyDigests }}
  - --policy-digest={{ . }}
  {{- end }}
  {{- range $v.suiteDigests }}
  - --suite-digest={{ . }}
  {{- end }}
  - --max-age={{ $v.maxAge }}
  - --verifier={{ $v.verifier }}
resources:
  {{- toYaml $v.resources | nindent 2 }}
securityContext:
  {{- include "taskgate.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: models, mountPath: /models, readOnly: true}
  - {name: verify-keys, mountPath: /etc/taskgate/keys, readOnly: true}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "taskgate.verify.volumes" -}}
{{- $v := .Values.verify -}}
- name: models
  persistentVolumeClaim:
    claimName: {{ required "verify.model.existingClaim: name the claim that holds the model" $v.model.existingClaim }}
    readOnly: true
- name: verify-keys
  configMap:
    name: {{ required "verify.keysConfigMap: name the ConfigMap that holds the trusted public keys" $v.keysConfigMap }}
{{- end }}
