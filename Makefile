# Every target has a line after `##`; `make` alone prints them.
# The environments are made on first use from pyproject.toml and constraints.txt, and reused after
# that without asking the network. `make PYTHON=/path/to/python3.12 test` picks the interpreter.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
# Without compiling all of torch ahead: Python compiles what is imported, when it is imported.
INSTALL := -m pip install --quiet --quiet --no-compile --constraint constraints.txt --editable
# Another environment that is active must not leak into ours.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PYTHONDONTWRITEBYTECODE
# pip reads the constraints for the build backend from here.
export PIP_CONSTRAINT := constraints.txt

# Small networks gain nothing from a second thread, and lose tenfold where the cores are busy.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
WORKERS ?= 2
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest --timeout=300

define venv
	@test -n "$(PYTHON)" || { echo "loopwright needs Python 3.11 or newer on PATH, or make PYTHON=..." >&2; exit 1; }
	@echo "Preparing $(1), once: a minute or more, most of it for PyTorch ..."
	@$(PYTHON) -m venv $(1)
endef

.DEFAULT_GOAL := help
.PHONY: help demo test lint types format docs bench test-system faults test-faults clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Train a small network on real digits and show the result
	$(ONE_THREAD) $(BIN)/loopwright train examples/digits.yaml

test: lint types ## Lint, check the types and run the core tests
	$(PYTEST) -n $(WORKERS) -m "not system and not faults and not slow"

lint: $(VENV)/.dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check the types (mypy, strict)
	$(BIN)/mypy

format: $(VENV)/.dev ## Rewrite the files in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-system: $(VENV)/.dev ## Run the slow tests and those that start whole programs
	$(PYTEST) -n $(WORKERS) -m "system or slow"

faults: $(VENV)/.dev ## Kill, fill and damage runs in every way the tests know; up to an hour
	LOOPWRIGHT_FAULTS=full $(ONE_THREAD) $(BIN)/python -m pytest --timeout=3600 -n $(WORKERS) -m faults

test-faults: $(VENV)/.dev ## The same in minutes
	$(PYTEST) -n $(WORKERS) -m faults

docs: $(VENV)/.docs ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: ## Measure the loop beside hand-written ones and other libraries
	@test -n "$(PYTHON)" || { echo "loopwright needs Python 3.11 or newer on PATH, or make PYTHON=..." >&2; exit 1; }
	$(PYTHON) benchmarks/run.py

clean: ## Remove environments, caches and built files; runs stay
	rm -rf $(VENV) $(BENCH) site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests docs examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamps below say which extras an environment holds.
$(VENV)/.demo: pyproject.toml constraints.txt
	$(call venv,$(VENV))
	@$(BIN)/python $(INSTALL) '.[cli,sklearn]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(call venv,$(VENV))
	@$(BIN)/python $(INSTALL) '.[cli,sklearn,metrics,onnx,plots,text,tensorboard,mlflow,wandb,comet,serve,images,tables,hdf5,language,huggingface,lightning,storage,s3,gcs,dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml constraints.txt
	$(call venv,$(VENV))
	@$(BIN)/python $(INSTALL) '.[docs,lightning]'
	@touch $@
