# One sentence: everything a contributor needs, on a machine that has only Python 3.11+ and make.
# Each target sets up what it needs; nothing is installed outside of .venv.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# The first interpreter that is new enough; `make PYTHON=...` overrides.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$name"; break; }; done)

.PHONY: help setup check test test-long broken bench run dashboards walkthrough format static size clean

help: ## say what can be made
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /: /'

$(VENV)/pip.stamp:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found. Install one, or say make PYTHON=/path/to/python3." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) lacks the venv module: install it (Debian: apt-get install python3-venv)." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/base.stamp: $(VENV)/pip.stamp pyproject.toml
	$(PIP) -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/pip.stamp pyproject.toml
	$(PIP) -e '.[dev,sdk]'
	@touch $@ $(VENV)/base.stamp

setup: $(VENV)/dev.stamp ## make .venv with everything that the tests need

run: $(VENV)/base.stamp ## set up, then the demo: no key and no network needed once it is installed
	$(BIN)/meterbox demo

dashboards: setup ## write dashboards/*.json from their source
	$(BIN)/python -m dashboards.source

walkthrough: setup ## live the expensive night again, and write docs/walkthrough.md (needs prometheus)
	$(BIN)/python -m tests.walkthrough --write

format: setup ## write the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

static: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: static ## what must be green before every commit: the static checks, and the tests that start no process
	$(BIN)/pytest --ignore=tests/e2e --ignore=tests/bench -m 'not server and not long and not shared'

test: static ## the static checks and all tests but the long ones
	$(BIN)/pytest

test-long: setup ## what `make test` leaves out: property and crash tests with many more examples
	METERBOX_TEST_LONG=1 $(BIN)/pytest -m long --timeout 3600

broken: setup ## break the lines that guard the money, one at a time in a copy, and see which test says so
	$(BIN)/python -m tests.broken

bench: setup ## measure the ledger and the metrics, then the proxy against a direct connection and nginx; prints, judges nothing
	$(BIN)/python -m tests.bench.ledger
	$(BIN)/python -m tests.bench.metrics
	$(BIN)/python -m tests.bench.run --seconds 2
	$(BIN)/python -m tests.bench.telemetry

size: ## what a base install takes: packages, and MB on disk without pip itself
	rm -rf build/size && "$(PYTHON)" -m venv build/size
	build/size/bin/python -m pip install --quiet --disable-pip-version-check .
	@build/size/bin/python -m pip list --disable-pip-version-check 2>/dev/null | tail -n +3 | grep -cvE '^(pip|setuptools) ' | sed 's/$$/ packages (at most 45)/'
	@build/size/bin/python -m pip uninstall --quiet --yes setuptools pip 2>/dev/null; du -sm build/size/lib | sed 's/\t.*/ MB (at most 100)/'

clean: ## forget .venv and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
