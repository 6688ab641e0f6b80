# Each target sets up all it needs: an environment in .venv, made by uv from the pinned versions.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
USER := .venv/.installed-user
DEV := .venv/.installed
UV_VERSION := 0.13.9
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
COMPILE := pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url

.PHONY: help quickstart check test docs coverage bench lint types imports fix lock wheel lowest clean

help:
	@echo "make quickstart   install, train the smallest study, print its table"
	@echo "make check        lint, types, imports and unit tests"
	@echo "make test         everything that CI runs"
	@echo "make docs         build the site in build/site, strictly"
	@echo "make coverage     unit tests, and how much of the code they run"
	@echo "make bench        every benchmark that this machine can run"
	@echo "make fix          format, and mend what ruff can mend"
	@echo "make lock         pin the newest versions that pyproject.toml allows"
	@echo "make wheel        build the wheel, install it elsewhere and run the unit tests against it"
	@echo "make lowest       unit tests with the lowest versions that pyproject.toml allows"
	@echo "make clean        remove the environment"

quickstart: $(USER)
	$(BIN)/dh2l-study run quickstart

check: lint types imports
	$(PYTEST) tests/unit

test: lint types imports docs
	$(PYTEST)

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

coverage: $(DEV)
	$(PYTEST) --cov --cov-report term tests/unit

bench: $(DEV)
	$(BIN)/python -m benchmarks

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/typos
	$(BIN)/hadolint Dockerfile

types: $(DEV)
	$(BIN)/mypy

imports: $(DEV)
	$(BIN)/lint-imports

fix: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Users' versions are those of the developers, who test them.
lock: $(UV)
	$(UV) $(COMPILE) --extra dev --extra docs --upgrade pyproject.toml --output-file requirements-dev.lock
	$(UV) $(COMPILE) --constraint requirements-dev.lock pyproject.toml --output-file requirements.lock

wheel: $(UV)
	$(UV) build --wheel
	$(UV) venv --clear --python $(BIN)/python .venv-wheel
	$(UV) pip install --python .venv-wheel/bin/python --requirement requirements-dev.lock
	$(UV) pip install --python .venv-wheel/bin/python --no-deps dist/*.whl
	.venv-wheel/bin/pytest --numprocesses 2 --dist loadfile tests/unit

lowest: $(UV)
	$(UV) venv --clear --python $(BIN)/python .venv-lowest
	$(UV) pip install --python .venv-lowest/bin/python --resolution lowest-direct --editable .[dev]
	.venv-lowest/bin/python -m pytest --numprocesses 2 --dist loadfile tests/unit

clean:
	rm -rf .venv .venv-wheel .venv-lowest

$(UV):
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(USER): $(UV) pyproject.toml requirements.lock
	@echo "installing torch, Ray, MLflow and what they need: several GB, once"
	$(UV) pip install --compile-bytecode --python $(BIN)/python --requirement requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

$(DEV): $(UV) pyproject.toml requirements-dev.lock
	@echo "installing torch, Ray, MLflow, what they need and the tools of the tests: several GB, once"
	$(UV) pip install --exact --compile-bytecode --python $(BIN)/python --requirement requirements-dev.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@ $(USER)
