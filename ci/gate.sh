#!/usr/bin/env bash
# One gate in CI: inputs → `gate check` → outputs, the step's summary, and the gate's own exit code.
#
# In:  INPUT_POLICY, INPUT_CANDIDATE; INPUT_OUT, the run folder; INPUT_BASELINE and INPUT_ARGS, one option a line, may be empty
# Out: the run folder; where they are set, GITHUB_OUTPUT gets verdict, report, worst-task, and GITHUB_STEP_SUMMARY the report
set -euo pipefail

out=${INPUT_OUT:-}
case $out in
  '' | *$'\n'*)
    echo "gate: usage: INPUT_OUT must name a run folder in one line" >&2
    exit 2
    ;;
esac
options=("--policy=${INPUT_POLICY:-}" "--candidate=${INPUT_CANDIDATE:-}" "--out=$out" --log=plain)
if [ -n "${INPUT_BASELINE:-}" ]; then options+=("--baseline=$INPUT_BASELINE"); fi
while IFS= read -r option; do
  option=${option%$'\r'}
  if [ -n "$option" ]; then options+=("$option"); fi
done <<< "${INPUT_ARGS:-}"

begun=$(mktemp)
trap 'rm -f "$begun"' EXIT
code=0
gate check "${options[@]}" || code=$?

# Only these codes are verdicts. A folder may hold what an earlier run found: that is told of no later one.
case $code in
  0) verdict=pass ;;
  3) verdict=block ;;
  4) verdict=inconclusive ;;
  *) verdict='' ;;
esac
tell() {
  local worst='' report=''
  if [ -n "$verdict" ] && [ "$out/verdict.json" -nt "$begun" ]; then
    report=$out/report.html
    # The gated rate whose lower bound lies highest over its limit, as the reports order them.
    worst=$(
      python3 - "$out/verdict.json" << 'PYTHON'
import json, sys

with open(sys.argv[1], encoding="utf-8") as file:
    stats = json.load(file)["stats"]
gated = [stat for stat in stats if stat["gated"] and stat["limit"] is not None]
print(max(gated, key=lambda stat: stat["lower"] - stat["limit"])["task"] if gated else "")
PYTHON
    )
  fi
  if [ -n "${GITHUB_OUTPUT:-}" ] && [ -n "$verdict" ]; then
    printf 'verdict=%s\nreport=%s\nworst-task=%s\n' "$verdict" "$report" "$worst" >> "$GITHUB_OUTPUT" || return
  fi
  if [ -z "${GITHUB_STEP_SUMMARY:-}" ]; then
    return 0
  elif [ -n "$report" ]; then
    head -c 1000000 "$out/report.md" >> "$GITHUB_STEP_SUMMARY" # over 1 MiB, nothing would be shown
  else
    printf 'Taskgate ended with exit code %s and no report: the reason is in the log of this step.\n' "$code" >> "$GITHUB_STEP_SUMMARY"
  fi
}

# What can't be told changes no verdict.
tell || echo "gate: the outputs or the summary could not be written in full" >&2
exit "$code"
