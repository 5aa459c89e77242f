#!/usr/bin/env bash
# The gate in a pipeline, on the shipped drifted model: check, read the verdict, keep the reports, remove the raw answers.
#
#   make demo && examples/tiny.sh [RUN_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1
run="${1:-runs/example}"

gate policy validate policies/demo.yaml

code=0
gate check --policy policies/demo.yaml --candidate testbed/weights/drifted-translation \
  --baseline testbed/weights/aligned --out "$run" --quiet || code=$?
echo "exit code $code"                     # 3: blocked. Everything but 0 holds the release.

gate report "$run" --format markdown | head -n 8
gate purge "$run"                          # the verdict and its reports stay, the answers go
test "$code" -eq 3
