# Two commands do everything: `make demo` and `make test`. Needs make and Python 3.11; uses uv where it is installed.
#
#   make demo        gate the shipped testbed models: aligned PASS, drifted BLOCK, mixed PASS
#   make repair-demo repair two blocked testbed models: one passes the held-out gate, one keeps being blocked
#   make guard       serve the shipped classifier on http://127.0.0.1:8700
#   make test        the test suite (< 10 min on 2 cores);  make test-full: the long tests too
#   make test-engines  the tests of vLLM, of a served vLLM and of Ray, in an environment of their own (2.6 GB)
#   make drift       fine-tune the testbed on every task, alone and mixed, three seeds; the matrix goes into docs/results.md
#   make lint        ruff and mypy;  make format: rewrite with ruff
#   make bench       the benches; each writes bench/results/*.json and its table in docs/
#   make bench-engines  those of vLLM, of a served vLLM and of Ray, in their environment; beside garak too with GARAK=<a Python with it>
#   make bench-guard the guard's alone (half an hour; the last one needs TASKGATE_DATA)
#   make bundle      train the guard's classifier again and build its bundle (TASKGATE_DATA: the labelled data's folder)
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
EXTRAS := model,finetune,attest,data,plots,endpoint,history-postgres,utility,guard,guard-otel,guard-train,dev,deploy
INDEX := $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))

# LiteLLM's proxy pins its own versions: it lives in an environment beside ours, for the tests that put it before the guard.
LITELLM := $(VENV)-litellm
LITELLM_STAMP := $(LITELLM)/.ok
export TASKGATE_LITELLM ?= $(abspath $(LITELLM)/bin/litellm)

# checkov too: the tests of the chart and the Dockerfile call it.
CHECKOV := $(VENV)-checkov
CHECKOV_STAMP := $(CHECKOV)/.ok
export TASKGATE_CHECKOV ?= $(abspath $(CHECKOV)/bin/checkov)

# vLLM for CPUs and Ray pin other versions than the guard's: an environment beside ours, every package of it in requirements/.
ENGINES := $(VENV)-engines
ENGINES_STAMP := $(ENGINES)/.ok

.PHONY: demo repair-demo drift guard test test-full test-engines lint format bench bench-engines bench-guard bundle schemas clean
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

repair-demo: $(STAMP)
	$(BIN)/python -m testbed.repair_demo

$(LITELLM_STAMP): Makefile
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python "$(PYTHON)" $(LITELLM) && uv pip install --quiet --python $(LITELLM)/bin/python 'litellm[proxy]==1.105.0'; \
	else \
	  "$(PYTHON)" -m venv $(LITELLM) && $(LITELLM)/bin/python -m pip install --quiet --disable-pip-version-check 'litellm[proxy]==1.105.0'; \
	fi
	@touch $@

$(CHECKOV_STAMP): Makefile
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python "$(PYTHON)" $(CHECKOV) && uv pip install --quiet --python $(CHECKOV)/bin/python 'checkov==3.3.30'; \
	else \
	  "$(PYTHON)" -m venv $(CHECKOV) && $(CHECKOV)/bin/python -m pip install --quiet --disable-pip-version-check 'checkov==3.3.30'; \
	fi
	@touch $@

$(ENGINES_STAMP): pyproject.toml requirements/engines-cpu.txt
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python "$(PYTHON)" $(ENGINES) && \
	  export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" && \
	  uv pip install --quiet --python $(ENGINES)/bin/python $(INDEX) --no-deps -r requirements/engines-cpu.txt && \
	  uv pip install --quiet --python $(ENGINES)/bin/python --no-deps -e .; \
	else \
	  "$(PYTHON)" -m venv $(ENGINES) && \
	  $(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check $(INDEX) --no-deps -r requirements/engines-cpu.txt && \
	  $(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .; \
	fi
	@touch $@

guard: $(STAMP)
	$(BIN)/guard serve

test: $(STAMP) $(LITELLM_STAMP) $(CHECKOV_STAMP)
	$(BIN)/python -m pytest -m "not full" -n 2 --dist loadfile --ignore=tests/engines

test-full: $(STAMP) $(LITELLM_STAMP) $(CHECKOV_STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/engines

# One process: one engine for all its tests.
test-engines: $(ENGINES_STAMP)
	OMP_NUM_THREADS=1 $(ENGINES)/bin/python -m pytest tests/engines

drift: $(STAMP)
	$(BIN)/python -m testbed.results

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
	$(BIN)/python -m bench.gate_memory
	$(BIN)/python -m bench.judge_accuracy
	$(BIN)/python -m bench.finetune_speed
	$(MAKE) bench-guard

# garak pins other versions than both: it is measured where an environment with it is named.
GARAK ?=
bench-engines: $(ENGINES_STAMP)
	$(ENGINES)/bin/python -m bench.gate_engines
	$(ENGINES)/bin/python -m bench.engine_overhead
	$(ENGINES)/bin/python -m bench.http_concurrency
	$(if $(GARAK),$(ENGINES)/bin/python -m bench.gate_vs_garak --garak $(GARAK),@echo "bench.gate_vs_garak is left out: name a Python with garak 0.17.1, GARAK=...")

bench-guard: $(STAMP)
	$(BIN)/python -m bench.guard_quality
	$(BIN)/python -m bench.guard_throughput
	$(BIN)/python -m bench.guard_latency
	$(BIN)/python -m bench.guard_overload
	$(BIN)/python -m bench.guard_reload
	$(BIN)/python -m bench.guard_soak
	$(BIN)/python -m bench.guard_long_texts
	$(BIN)/python -m bench.guard_outside

BUNDLE ?= guard_server/bundles/default
BUNDLE_VERSION ?= 2026.11.5
bundle: $(STAMP)
	$(BIN)/guard train --out build/guard $(if $(TASKGATE_DATA),--data $(TASKGATE_DATA))
	$(BIN)/guard bundle --model build/guard --out $(BUNDLE) --version $(BUNDLE_VERSION) --force $(if $(TASKGATE_DATA),--data $(TASKGATE_DATA))

schemas: $(STAMP)
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) $(LITELLM) $(CHECKOV) $(ENGINES) build .mypy_cache .ruff_cache .pytest_cache .hypothesis runs
