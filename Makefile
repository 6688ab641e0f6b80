# Each target sets up all it needs: an environment in .venv, made by uv from the pinned versions.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
STAMP := .venv/.installed
UV_VERSION := 0.13.9

.PHONY: quickstart test bench lint types fix lock clean

quickstart: $(STAMP)
	$(BIN)/dh2l-study run quickstart

test: lint types
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

bench: $(STAMP)
	$(BIN)/python -m benchmarks

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

fix: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.11 --extra dev --no-header --no-annotate \
	    --no-emit-index-url --upgrade pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv

$(UV):
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): $(UV) pyproject.toml requirements.lock
	$(UV) pip install --quiet --exact --compile-bytecode --python $(BIN)/python --requirement requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@
