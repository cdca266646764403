# make demo | test | bench | lint | format | clean | help. Each creates the virtual environment it needs.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2
BENCH_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 5 --timeout 60

MODEL := models/digits_cnn.onnx
EVAL := models/digits_cnn.eval.npz
RESULT := build/digits_cnn.O3.onnx

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint types format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.runtime ## Optimize a shipped model at -O3 and show the report
	@mkdir -p build
	$(BIN)/accelc optimize $(MODEL) -O3 --inputs $(EVAL) -o $(RESULT)

test: $(VENV)/.dev ## Run every test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.runtime ## Measure models, levels and peers; write BENCHMARKS.md
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

lint: $(VENV)/.dev types ## Check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check

# The folders passes/ and backends/ are installed inside accelc; the type checker must see them there too.
types: $(VENV)/.dev ## Check types
	@rm -rf build/typed && mkdir -p build/typed/accelc
	@ln -s $(CURDIR)/accelc/* $(CURDIR)/passes $(CURDIR)/backends build/typed/accelc/
	cd build/typed && $(abspath $(BIN))/mypy --strict --config-file ../../pyproject.toml -p accelc

format: $(VENV)/.dev ## Format and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## Remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "accelc needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "$(PYTHON) cannot create a virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "installing what accelc needs into $(VENV)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing what accelc and its tests need into $(VENV)"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.runtime
