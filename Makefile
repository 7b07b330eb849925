# The two commands that matter: `make demo` and `make test`. Each needs Python 3.10 or newer and PyPI, nothing else:
# it makes its own virtual environment in .venv, and installs again only when pyproject.toml or lock.txt changes.
#
# All that is installed here comes in the versions of lock.txt, so that a release elsewhere never changes what a commit
# does; `make update` renews it. What the library itself requires are ranges, and `make test-latest` tries their ends.
#
#   make PYTHON=/usr/local/bin/python3.12 test     another interpreter (remove .venv first)
#   make PYTEST_ARGS="-k claims -x" test           other arguments for pytest
#
# Kept to what GNU make 3.81 knows: macOS ships it.

SHELL := /bin/sh
# The tests start some thousands of interpreters. Where this is set, each of them compiles every module again.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
LOCK := lock.txt
# What is read by people.
TEXTS := $(wildcard *.md) .github docs examples starburst_executor tests benchmarks
LOCKED := $(PIP_INSTALL) --constraint $(LOCK)
# Builds use what is installed, so what builds is locked too; without this, pip fetches the newest for each build.
EDITABLE := --no-build-isolation --editable
BUILDERS := hatchling editables
PYTEST_ARGS ?=
# Most tests wait for processes, so three at a time are right for two cores.
PYTEST_AT_ONCE ?= -n 3 --dist worksteal
BENCH_RESULTS := benchmarks/results
BENCH_ARGS ?= --out $(BENCH_RESULTS)
PYTEST_RUN = -m pytest -m "not stress and not aws and not image and not emulated" $(PYTEST_AT_ONCE) $(PYTEST_ARGS)
MINORS := 14 13 12 11 10
OLDEST_FIRST := 10 11 12 13 14
# Which of those found .venv is made with, unless one is named: the newest on which this is in daily use.
PREFERRED := 13 12 11 10 14

.PHONY: help demo test check format lint types unit stress bench plots image-check test-browser test-emulated test-integrations test-aws docs site docs-links package test-all test-latest \
	update clean

help:
	@echo "make demo      what it does, on the standard library's own sources; two minutes"
	@echo "make test      lint, types and every test but stress and AWS, on one interpreter"
	@echo "make test-all  the tests on each of Python 3.10 to 3.14 that is found"
	@echo "make test-latest  the tests with the newest releases of all that is used, and with the oldest that are allowed"
	@echo "make update    renew lock.txt: the versions that tests and tools are installed in"
	@echo "make check     lint, types and unit tests: before each commit"
	@echo "make stress    thousands of tasks while workers and clients are killed; minutes"
	@echo "make bench     the benchmarks, an hour; rows and plots in benchmarks/results; BENCH_ARGS=--quick to see that they work"
	@echo "make plots     draw benchmarks/results, and write their figures into the documentation"
	@echo "make image-check  build the worker's image and run a session in it; needs docker, podman or buildah"
	@echo "make test-browser  the dashboard in Chromium: every page, in both themes, wide and narrow"
	@echo "make test-emulated  the way of a new user in an AWS account that MiniStack emulates; minutes"
	@echo "make test-integrations  joblib, scikit-learn, SciPy, Dask, Optuna, pandas, Jupyter and pytest on this library's workers"
	@echo "make test-aws  in a real AWS account, for some cents: see tests/aws/README.md"
	@echo "make package   build sdist and wheel in dist/, and check them"
	@echo "make docs      build the documentation site, strictly, and run every example in it"
	@echo "make site      build the site alone: docs/_build/html/index.html"
	@echo "make docs-links  ask whether the external links of the documentation lead anywhere"
	@echo "make format    make the code look alike"
	@echo "make clean     remove what these made"

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: lint types
	$(BIN)/python $(PYTEST_RUN)

check: lint types unit

unit: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit tests/test_architecture.py $(PYTEST_ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell $(TEXTS)

types: $(VENV)/.dev
	$(BIN)/mypy

# Where there is no atheris to install, its tests are skipped and say so.
stress: $(VENV)/.dev
	-$(BIN)/python $(LOCKED) --only-binary atheris $(EDITABLE) '.[fuzz]'
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile search -n 2 $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m stress $(PYTEST_ARGS)

bench: $(VENV)/.bench
	@for file in $(filter-out %/plots.py %/figures.py,$(wildcard benchmarks/[a-z]*.py)); do \
	    echo "$$file"; $(BIN)/python "$$file" $(BENCH_ARGS) || exit 1; done
	@$(MAKE) --no-print-directory plots

plots: $(VENV)/.bench
	$(BIN)/python benchmarks/plots.py $(BENCH_RESULTS)
	$(BIN)/python benchmarks/figures.py $(BENCH_RESULTS)

# BASE_IMAGE=debian: on a base made from Debian's packages, where no image registry can be reached (needs root, debootstrap).
image-check: $(VENV)/.dev
	$(BIN)/python -m pytest -m image -s $(PYTEST_ARGS)

# In Chromium, which must be installed: `apt install chromium`. `make test` runs the quick ones where it is there.
test-browser: $(VENV)/.dev
	$(BIN)/python -m pytest -m browser -rs $(PYTEST_ARGS) tests/browser

# MiniStack pins an older botocore than the library gets, so that it has an environment of its own.
test-emulated: $(VENV)/.dev .venvs/ministack/.done
	$(BIN)/python -m pytest -m emulated $(PYTEST_ARGS) tests/emulated

.venvs/ministack/.done: tests/emulated/lock.txt $(BIN)/python
	$(BIN)/python -m venv --clear .venvs/ministack
	.venvs/ministack/bin/python $(PIP_INSTALL) --requirement tests/emulated/lock.txt
	@touch $@

# Skipped unless STARBURST_TEST_AWS=1 and STARBURST_TEST_AWS_STACK are set.
test-aws: $(VENV)/.dev
	$(BIN)/python -m pytest -m aws -s $(PYTEST_ARGS) tests/aws

# What a release consists of, checked: dist/.
package: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

# Warnings are errors, so are links within the documentation that lead nowhere. The site: docs/_build/html/index.html.
docs: site
	$(BIN)/python -m pytest tests/test_docs.py $(PYTEST_ARGS)

site: $(VENV)/.dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html

# The one target here that needs the whole internet.
docs-links: $(VENV)/.dev
	$(BIN)/sphinx-build --quiet --builder linkcheck docs docs/_build/links

clean:
	rm -rf $(VENV) .venvs .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------------------------------- environments

# A name on PATH proves nothing: version managers put shims there that only tell how to install. So each is run.
WORKS := -c 'import sys; sys.exit(sys.version_info < (3, 10))'
FIND_PYTHON = for name in $(PYTHON) $(if $(PYTHON),,$(PREFERRED:%=python3.%) python3); do \
	if "$$name" $(WORKS) >/dev/null 2>&1; then python=$$name; break; fi; done

$(BIN)/python:
	@python=; $(FIND_PYTHON); \
	if [ -z "$$python" ]; then \
	    echo "no Python 3.10 or newer found: install one (https://www.python.org/downloads/), or name it:" >&2; \
	    echo "    make PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "$$python comes without the venv module, which Debian and Ubuntu package apart; type" >&2; \
	    echo "    sudo apt install python$$version-venv" >&2; \
	    echo "and then the same make again" >&2; exit 1; fi; \
	echo "making $(VENV) with $$("$$python" -V)"; \
	"$$python" -m venv --clear $(VENV)

$(VENV)/.build: pyproject.toml $(LOCK) $(BIN)/python
	$(BIN)/python $(LOCKED) $(BUILDERS)
	@touch $@

$(VENV)/.demo: $(VENV)/.build
	$(BIN)/python $(LOCKED) $(EDITABLE) '.[progress]'
	@touch $@

# Libraries to compare with: the benchmarks say which are not installed.
$(VENV)/.bench: $(VENV)/.build
	$(BIN)/python $(LOCKED) $(EDITABLE) '.[bench,cli,dashboard]'
	-$(BIN)/python $(LOCKED) $(EDITABLE) '.[peers]'
	@touch $@

$(VENV)/.dev: $(VENV)/.build
	$(BIN)/python $(LOCKED) $(EDITABLE) '.[dev]'
	@touch $@

# The real libraries that this one is used from; a part of `make test`.
test-integrations: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/integrations

# For every Python from the oldest supported on, and for every system, in one file.
update: $(VENV)/.build
	$(BIN)/python $(LOCKED) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.$(firstword $(OLDEST_FIRST)) --all-extras --upgrade \
	    --custom-compile-command "make update" --output-file $(LOCK) pyproject.toml
	@git diff --stat -- $(LOCK) 2>/dev/null || true

# Sets `python` to an interpreter of Python 3.$$minor: from PATH, or else the newest patch that pyenv has; or to nothing.
FIND_MINOR = python=; \
	for name in python3.$$minor $$(ls -d "$$HOME"/.pyenv/versions/3.$$minor.*/bin/python 2>/dev/null | sort -t. -k4nr); do \
	    if "$$name" -c "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, $$minor))" >/dev/null 2>&1; \
	    then python=$$name; break; fi; done

# One environment per interpreter in .venvs.
test-all:
	@failed=; missing=; passed=; \
	for minor in $(MINORS); do \
	    $(FIND_MINOR); \
	    if [ -z "$$python" ]; then missing="$$missing 3.$$minor"; continue; fi; \
	    venv=.venvs/3.$$minor; echo "== Python 3.$$minor: $$python"; \
	    if [ ! -e $$venv/.test ] || [ pyproject.toml -nt $$venv/.test ] || [ $(LOCK) -nt $$venv/.test ]; then \
	        "$$python" -m venv --clear $$venv && $$venv/bin/python $(LOCKED) $(BUILDERS) \
	            && $$venv/bin/python $(LOCKED) $(EDITABLE) '.[test]' && touch $$venv/.test \
	            || { failed="$$failed 3.$$minor(install)"; continue; }; fi; \
	    if $$venv/bin/python $(PYTEST_RUN); \
	    then passed="$$passed 3.$$minor"; else failed="$$failed 3.$$minor"; fi; done; \
	echo "passed:$${passed:- none}; failed:$${failed:- none}; not found:$${missing:- none}"; \
	[ -z "$$failed" ] && [ -n "$$passed" ]

# Made anew each time, since releases are what it is about. The newest of everything on the newest Python found; the
# oldest that the library's own ranges allow on the oldest Python found, with the newest of all that only tests use.
test-latest: $(VENV)/.build
	@$(BIN)/python $(LOCKED) uv
	@failed=; passed=; \
	for end in newest oldest; do \
	    if [ $$end = newest ]; then minors="$(MINORS)"; else minors="$(OLDEST_FIRST)"; fi; \
	    for minor in $$minors; do $(FIND_MINOR); if [ -n "$$python" ]; then break; fi; done; \
	    if [ -z "$$python" ]; then echo "no Python 3.10 or newer found" >&2; exit 1; fi; \
	    venv=.venvs/$$end; limits=.venvs/$$end.txt; echo "== the $$end releases, on Python 3.$$minor: $$python"; \
	    mkdir -p .venvs && : > $$limits; \
	    if [ $$end = oldest ]; then \
	        $(BIN)/uv pip compile --quiet --resolution lowest-direct --python-version 3.$$minor --extra cli --extra progress \
	            --no-annotate --no-header --output-file $$limits pyproject.toml || { failed="$$failed $$end(resolve)"; continue; }; fi; \
	    "$$python" -m venv --clear $$venv && $$venv/bin/python $(PIP_INSTALL) --constraint $$limits $(BUILDERS) \
	        && $$venv/bin/python $(PIP_INSTALL) --constraint $$limits $(EDITABLE) '.[test]' \
	        || { failed="$$failed $$end(install)"; continue; }; \
	    if TEST_CONSTRAINTS=$$limits $$venv/bin/python $(PYTEST_RUN); \
	    then passed="$$passed $$end"; else failed="$$failed $$end"; fi; done; \
	echo "passed:$${passed:- none}; failed:$${failed:- none}"; \
	[ -z "$$failed" ]
