{{/* Retried or not: the gate's exit codes. 1 to 4 would end the same way again, 5 and 143 resume. */}}
{{- define "taskgate.gate.failurePolicy" -}}
podFailurePolicy:
  rules:
    - action: FailJob
      onExitCodes: {containerName: gate, operator: In, values: [1, 2, 3, 4]}
    - action: Ignore
      onPodConditions:
        - {type: DisruptionTarget, status: "True"}
    - action: Count
      onExitCodes: {containerName: gate, operator: In, values: [5, 143]}
{{- end }}

{{- define "taskgate.gate.labels" -}}
{{- with .Values.gate.podLabels }}
{{ toYaml . }}
{{- end }}
{{ include "taskgate.labels" . }}
app.kubernetes.io/component: gate
{{- end }}

{{/* Folder of the run below /runs; $(JOB_NAME) is filled in by the kubelet */}}
{{- define "taskgate.gate.folder" -}}
{{- if .Values.gate.schedule -}}/runs/$(JOB_NAME){{- else -}}/runs/{{ .Values.gate.run }}{{- end -}}
{{- end }}

{{- define "taskgate.gate.checkArgs" -}}
{{- with .Values.gate -}}
- check
- --policy={{ if .policy.existingConfigMap }}/etc/taskgate/policy/{{ .policy.key }}{{ else }}{{ .policy.name }}{{ end }}
- --candidate={{ .candidate }}
{{- with .baseline }}
- --baseline={{ . }}
{{- end }}
- --engine={{ .engine }}
{{- if gt (int .shards) 1 }}
- --shard=auto/{{ .shards }}
- --out={{ include "taskgate.gate.folder" $ }}/shard-$(JOB_COMPLETION_INDEX)
{{- else }}
- --out={{ include "taskgate.gate.folder" $ }}
{{- with .name }}
- --name={{ . }}
{{- end }}
{{- end }}
- --log=json
{{- range .extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "taskgate.gate.mergeArgs" -}}
- merge
- {{ include "taskgate.gate.folder" . }}/run
{{- range until (int .Values.gate.shards) }}
- {{ include "taskgate.gate.folder" $ }}/shard-{{ . }}
{{- end }}
{{- with .Values.gate.name }}
- --name={{ . }}
{{- end }}
{{- end }}

{{/* A pod of the gate: (dict "root" $ "args" text "resources" values "asks" true) */}}
{{- define "taskgate.gate.podSpec" -}}
{{- $root := .root -}}
{{- $gate := .root.Values.gate -}}
restartPolicy: Never
{{ include "taskgate.podSecurity" $root }}
{{- include "taskgate.placement" $gate | nindent 0 }}
terminationGracePeriodSeconds: 120
containers:
  - name: gate
    image: {{ include "taskgate.image" (dict "of" "gate" "image" $gate.image) | quote }}
    imagePullPolicy: {{ $gate.image.pullPolicy }}
    args:
      {{- .args | nindent 6 }}
    env:
      - {name: HF_HUB_OFFLINE, value: "1"}
      - name: JOB_NAME
        valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}
      {{- if $root.Values.history.existingSecret }}
      - {name: GATE_HISTORY_FILE, value: {{ printf "/etc/taskgate/history/%s" $root.Values.history.key }}}
      {{- end }}
      {{- with $gate.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    resources:
      {{- toYaml .resources | nindent 6 }}
    securityContext:
      {{- include "taskgate.containerSecurity" $root | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: runs, mountPath: /runs}
      {{- if .asks }}
      - {name: shm, mountPath: /dev/shm}
      {{- if $gate.models.existingClaim }}
      - {name: models, mountPath: /models, readOnly: true}
      {{- end }}
      {{- if $gate.policy.existingConfigMap }}
      - {name: policy, mountPath: /etc/taskgate/policy, readOnly: true}
      {{- end }}
      {{- end }}
      {{- if $root.Values.history.existingSecret }}
      - {name: history, mountPath: /etc/taskgate/history, readOnly: true}
      {{- end }}
      {{- with $gate.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  - name: runs
    persistentVolumeClaim: {claimName: {{ required "gate.runs.existingClaim: name the claim for run folders; a pod that is started again resumes from it" $gate.runs.existingClaim }}}
  {{- if .asks }}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: {{ $gate.sharedMemory }}}
  {{- if $gate.models.existingClaim }}
  - name: models
    persistentVolumeClaim: {claimName: {{ $gate.models.existingClaim }}, readOnly: true}
  {{- end }}
  {{- if $gate.policy.existingConfigMap }}
  - name: policy
    configMap: {name: {{ $gate.policy.existingConfigMap }}}
  {{- end }}
  {{- end }}
  {{- if $root.Values.history.existingSecret }}
  - name: history
    secret: {secretName: {{ $root.Values.history.existingSecret }}}
  {{- end }}
  {{- with $gate.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* A Job's spec without its template's pod: (dict "root" $ "shards" n) */}}
{{- define "taskgate.gate.jobHead" -}}
{{- $gate := .root.Values.gate -}}
{{- if gt (int .shards) 1 -}}
completionMode: Indexed
completions: {{ .shards }}
parallelism: {{ .shards }}
backoffLimitPerIndex: {{ $gate.retries }}
{{- else -}}
backoffLimit: {{ $gate.retries }}
{{- end }}
activeDeadlineSeconds: {{ $gate.activeDeadlineSeconds }}
{{- if $gate.ttlSecondsAfterFinished }}
ttlSecondsAfterFinished: {{ $gate.ttlSecondsAfterFinished }}
{{- end }}
{{ include "taskgate.gate.failurePolicy" .root }}
{{- end }}

{{- define "taskgate.gate.hook" -}}
helm.sh/hook: post-install,post-upgrade
helm.sh/hook-delete-policy: before-hook-creation
helm.sh/hook-weight: {{ .weight | quote }}
{{- end }}
