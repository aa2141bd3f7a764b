# make run: the demonstration, from a bare checkout. make test: every check. make help: the rest.

# Any Python from 3.11 on: make run PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
TEST_VENV := .venv-test
BENCH_VENV := .venv-bench
DOCS_VENV := .venv-docs
# Tests that start processes of their own, kill some of them and wait for others: after the rest,
# which would leave them no time.
BUSY := tests/flow tests/cli tests/safety
PIP_OPTIONS := --quiet --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help run relief head install bench bench-runs soak science docs test clean clean-data
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: data/.seismic ## A day of seismic records: install, download, transform, picture
	$(VENV)/bin/scatflow run pipelines/seismic_day.toml
	$(VENV)/bin/scatflow show results/seismic_day.zarr

relief: data/.relief ## The same for a giant image
	$(VENV)/bin/scatflow run pipelines/relief_2d.toml
	$(VENV)/bin/scatflow show results/relief_2d.zarr

head: data/.head ## The same for a volume
	$(VENV)/bin/scatflow run pipelines/head_3d.toml
	$(VENV)/bin/scatflow show results/head_3d.zarr

install: $(VENV)/.installed ## The environment of the demonstrations

bench: $(BENCH_VENV)/.installed ## Engines against Kymatio: figures, picture and page in docs/benchmarks
	$(BENCH_VENV)/bin/python benchmarks/engines.py --output docs/benchmarks

bench-runs: $(BENCH_VENV)/.installed ## Whole runs, workers against threads: page in docs/benchmarks
	$(BENCH_VENV)/bin/python benchmarks/threads.py --output docs/benchmarks

soak: $(BENCH_VENV)/.installed ## A hundred kills in one run, and the bytes compared: half an hour
	$(BENCH_VENV)/bin/python benchmarks/soak.py

science: data/.forda data/.mnist data/.seismic data/.qm9 $(BENCH_VENV)/.installed ## Published results, Kymatio's and ours, in one run each: page in docs
	$(BENCH_VENV)/bin/python examples/forda.py --results results/science --picture docs/forda.png
	$(BENCH_VENV)/bin/python examples/mnist.py --results results/science --picture docs/mnist.png
	$(BENCH_VENV)/bin/python examples/seismic.py --results results/science --picture docs/seismic.png
	$(BENCH_VENV)/bin/python examples/qm9.py --results results/science --picture docs/qm9.png
	$(BENCH_VENV)/bin/python examples/page.py results/science --output docs/science.md

test: $(TEST_VENV)/.installed ## Lint, format, types and tests, in an environment of their own
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/mypy --strict scatflow
	$(TEST_VENV)/bin/pytest --numprocesses 2 --dist loadfile $(BUSY:%=--ignore=%)
	$(TEST_VENV)/bin/pytest $(BUSY)

docs: $(DOCS_VENV)/.installed ## The pages, in docs/_build/html; every warning is an error
	$(DOCS_VENV)/bin/sphinx-build -W --keep-going -b html docs docs/_build/html

clean: ## Remove environments, results and caches
	rm -rf $(VENV) $(TEST_VENV) $(BENCH_VENV) $(DOCS_VENV) docs/_build docs/gallery docs/sg_execution_times.rst results .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: ## Remove the downloaded data
	rm -rf data

# Data are fetched once: the stamp is set when all of them are there. They do not depend on the
# environment's age, only on its existence.
data/.%: pipelines/fetch_data.py | $(VENV)/.installed
	$(VENV)/bin/python pipelines/fetch_data.py $*
	@touch $@

# Editable, so that only new requirements make an environment again.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing scatflow into $(VENV); this takes a minute or two."
	$(VENV)/bin/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e ".[ingest,plot]"
	@touch $@

$(TEST_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(TEST_VENV)
	@echo "Installing scatflow and its tests' requirements into $(TEST_VENV)."
	$(TEST_VENV)/bin/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e ".[test]"
	@touch $@

$(BENCH_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	@echo "Installing scatflow and its peers into $(BENCH_VENV)."
	$(BENCH_VENV)/bin/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e ".[bench]"
	@touch $@

$(DOCS_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(DOCS_VENV)
	@echo "Installing scatflow and Sphinx into $(DOCS_VENV)."
	$(DOCS_VENV)/bin/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e ".[docs]"
	@touch $@
