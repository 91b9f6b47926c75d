# Needs only python3 (3.11 or newer, with venv) and make. `make` alone says what there is.
PYTHON ?= python3
BIN := .venv/bin

# Where it is set, imports are compiled anew in every process, and Airflow starts many.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
unexport VIRTUAL_ENV
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help demo test matrix soak ui stream bench dist clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/'

demo: .venv/stamp ## Backfill three days in a real Airflow against a sandbox, and compare every event
	@$(BIN)/python -m tests.e2e.demo

# Types are checked beside the tests, which often wait. If they are wrong, that is said again at the end.
test: .venv/stamp ## Lint, types, and every test, end to end included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/mypy & types=$$!; \
	$(BIN)/pytest -v --durations=10 --numprocesses=4 --dist=loadfile --no-loadscope-reorder tests/e2e tests/unit; \
	tests=$$?; wait $$types || $(BIN)/mypy || exit; exit $$tests

matrix: .venv/stamp ## The wheel in Airflow 3.0 to 3.4 and Python 3.11 to 3.13, with the lowest versions, with BigQuery, and with Snowflake
	@$(BIN)/python -m tests.matrix

soak: .venv/stamp ## Hundreds of hourly intervals with faults at random: nothing lost, nothing growing
	@$(BIN)/python -m tests.soak

ui: .venv/stamp ## An Airflow with three weeks of runs to click around in, until Ctrl-C
	@$(BIN)/python -m tests.e2e.ui

stream: .venv/stamp ## Push reporting webhooks at the stream app, and compare what Segment kept, until Ctrl-C
	@$(BIN)/python -m tests.e2e.stream

bench: .venv/bench-stamp ## Measure speed and memory against the sandbox, about three quarters of an hour
	@$(BIN)/python -m tests.benchmarks

dist: .venv/stamp ## Build what is uploaded to a package index into dist/, and check it
	@$(BIN)/python -m tests.dist

clean: ## Remove .venv and all caches
	rm -rf .venv build dist .coverage htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@echo "Installing Airflow and the tools into .venv (about a minute, once) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'pip>=25.1'  # the first that knows groups
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e . --group dev
	@touch $@

# What the bench compares with gets an environment of its own, with the same versions otherwise.
.venv/bench-stamp: .venv/stamp
	@echo "Installing what is only measured into .venv/bench (a few seconds, once) ..."
	$(BIN)/python -m venv --clear --without-pip .venv/bench
	$(BIN)/pip --python .venv/bench/bin/python install --quiet --disable-pip-version-check -c constraints.txt --group bench
	@touch $@
