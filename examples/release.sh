#!/usr/bin/env bash
# A release from end to end, on the shipped aligned model: gate it, sign the verdict, keep it in the history, show it to Prometheus,
# and verify it where it is deployed; then four things that verification refuses, each with exit code 3 and its own reason.
#
#   make demo && examples/release.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1
work="${1:-runs/release}"
port="${EXPORTER_PORT:-9464}"
export GATE_HISTORY="$work/history.sqlite"
mkdir -p "$(dirname "$work")"
mkdir "$work"  # a folder that is there already is somebody's: give another name
cp -r testbed/weights/aligned "$work/model"

# 1. Check, and record the run under the model's name.
gate check --policy policies/demo.yaml --candidate "$work/model" --name chat --out "$work/run" --quiet

# 2. Sign what was found. The private key stays where releases are made, the public one goes to every deployment.
gate keygen --out "$work/keys"
gate attest "$work/run" --key "$work/keys/gate-private.pem"

# 3. Mark the release: the next candidate can be compared with it (--baseline last-released).
gate history release "$work/run"
gate history

# 4. What Prometheus scrapes.
gate exporter --port "$port" &
exporter=$!
trap 'kill "$exporter"' EXIT
for _ in $(seq 120); do
  if python - "$port" > "$work/scraped.prom" 2> /dev/null <<'PY'
import sys, urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=10).read().decode())
PY
  then break; fi
  sleep 1
done
grep '^gate_verdict{.*model="chat".*} 1.0' "$work/scraped.prom"

# 5. Where the model is deployed: the files on disk, the key, the policy and the age must all be right.
digest=$(python -c "import json, sys; print(json.load(open(sys.argv[1]))['policy_digest'])" "$work/run/verdict.json")
verify() { # model, key, policy digest, age
  gate verify --candidate "$1" --attestation "$work/run/attestation.intoto.jsonl" --key "$2" --policy-digest "$3" --max-age "$4"
}
refused() { # what is wrong, then the arguments of verify
  local code=0
  echo "--- $1"
  shift
  verify "$@" || code=$?
  test "$code" -eq 3
}
key="$work/keys/gate-public.pem"
verify "$work/model" "$key" "$digest" 30d

cp -r "$work/model" "$work/changed"
printf '\001' | dd of="$work/changed/model.safetensors" bs=1 seek=100000 conv=notrunc status=none
gate keygen --out "$work/other" > /dev/null
refused "a changed weight file" "$work/changed" "$key" "$digest" 30d
refused "a stale attestation" "$work/model" "$key" "$digest" 1s
refused "another policy" "$work/model" "$key" "$(printf '0%.0s' $(seq 64))" 30d
refused "a wrong key" "$work/model" "$work/other/gate-public.pem" "$digest" 30d
echo "released: $work/model"
