# Two commands do everything: `make demo` and `make test`. Needs make and Python 3.11; uses uv where it is installed.
#
#   make demo        gate the shipped testbed models: aligned PASS, drifted BLOCK, mixed PASS
#   make test        the test suite (< 10 min on 2 cores);  make test-full: the long tests too
#   make lint        ruff and mypy;  make format: rewrite with ruff
#   make bench       the benches; each writes bench/results/*.json and its table in docs/
#   make schemas     write schemas/*.json and docs/cli.md again from the code
#   make clean       remove the environment and caches

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# An extra package index with CPU-only wheels of torch, e.g. PyTorch's own; empty: the default index (on Linux with CUDA).
TORCH_INDEX_URL ?=
# Threads of torch: more than one collapses on a shared machine (docs/testbed.md).
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1

BIN := $(VENV)/bin
STAMP := $(VENV)/.ok
EXTRAS := model,data,dev
INDEX := $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))

.PHONY: demo test test-full lint format bench schemas clean
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV) && \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" uv pip install --python $(BIN)/python $(INDEX) -c constraints.txt -e '.[$(EXTRAS)]'; \
	else \
	  "$(PYTHON)" -m venv $(VENV) && \
	  $(BIN)/python -m pip install --disable-pip-version-check $(INDEX) -c constraints.txt -e '.[$(EXTRAS)]'; \
	fi
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m testbed.demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not full" -n 2 --dist loadfile

test-full: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m bench.coverage
	$(BIN)/python -m bench.generations_to_verdict
	$(BIN)/python -m bench.gate_overhead
	$(BIN)/python -m bench.judge_accuracy

schemas: $(STAMP)
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis runs
