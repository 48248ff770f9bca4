# Everything runs from here. `make quickstart` and `make test` work on a bare machine with Python 3.11 or later.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

INSTALL = $(if $(shell command -v uv),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install \
	--disable-pip-version-check) --quiet
JAX := $(shell sed -n 's/^jax==//p' requirements.txt)

.PHONY: help setup cuda tpu quickstart test check lint format types parity aot doctor clean

help: ## List the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## Make .venv with everything that is needed, with uv where it is there, else with venv and pip.

$(READY): requirements.txt pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
		echo "setup: installing into $(VENV) with uv (about a minute)"; \
		uv venv --quiet --clear --python '>=3.11' $(VENV) && \
		uv pip install --quiet --python $(BIN)/python -r requirements.txt && \
		uv pip install --quiet --python $(BIN)/python --no-deps -e .; \
	else \
		test -n "$(PYTHON)" || { echo "setup: no Python 3.11 or later found; install one, or uv" >&2; exit 2; }; \
		echo "setup: installing into $(VENV) with $(PYTHON) and pip (about two minutes)"; \
		$(PYTHON) -m venv --clear $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .; \
	fi
	@touch $(READY)

cuda: $(READY) ## Add jax's runtime for NVIDIA GPUs to .venv (CUDA 13: driver 580 or later).
	@$(INSTALL) "jax[cuda13]==$(JAX)"

tpu: $(READY) ## Add jax's runtime for TPUs to .venv.
	@$(INSTALL) "jax[tpu]==$(JAX)"

quickstart: $(READY) ## Train the packaged meta-agent on toy tasks: no key, no accelerator, no download.
	@$(BIN)/python -m experiments.rlao --flagfile=experiments/flags/quickstart.flags

test: $(READY) ## Run the tests.
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: lint types test ## What CI runs: format, lint, types, tests.

lint: $(READY) ## Check format and lint.
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

format: $(READY) ## Format and fix what can be fixed.
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

types: $(READY) ## Check types.
	@$(BIN)/mypy

parity: .venv-parity/.ready ## Compare with transformers and peft on torch, live, in an environment of its own.
	@.venv-parity/bin/python -m pytest tests/parity_live -W default -p no:cacheprovider

.venv-parity/.ready: requirements.txt
	@echo "parity: installing torch (CPU) and peft into .venv-parity (some minutes)"
	@$(PYTHON) -m venv --clear .venv-parity
	@.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check $(addprefix --index-url=,$(TORCH_INDEX)) torch==2.13.0
	@.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt peft==0.19.1
	@.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

aot: .venv-aot/.ready ## Compile kernels and steps for TPUs and GPUs that are not here, in an environment of its own.
	@.venv-aot/bin/python -m pytest -rs -p no:cacheprovider \
		tests/test_policy_kernels.py tests/test_preflight_compile.py tests/test_experiments_preflight.py
	@.venv-aot/bin/python -m benchmarks.gpu_kernels

.venv-aot/.ready: requirements.txt
	@echo "aot: installing the compilers of TPUs and GPUs into .venv-aot (4 GB, some minutes)"
	@$(PYTHON) -m venv --clear .venv-aot
	@.venv-aot/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@.venv-aot/bin/python -m pip install --quiet --disable-pip-version-check \
		"jax[tpu,cuda13]==$(JAX)" nvidia-cuda-nvdisasm
	@.venv-aot/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

doctor: $(READY) ## Say what works on this machine.
	@$(BIN)/python -m experiments.doctor

clean: ## Remove environments, caches and runs/quickstart.
	rm -rf $(VENV) .venv-parity .venv-aot .pytest_cache .ruff_cache .mypy_cache runs/quickstart
