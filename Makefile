# Every target prepares what it needs; `make demo`, `make test` and `make site` work as the first command in a fresh clone.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
READY := $(VENV)/ready
SITE_READY := $(VENV)/ready-for-site
# setuptools warns of every editable installation; the constraints are what CI tests with.
PIP := PYTHONWARNINGS=ignore $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Tests run side by side; more threads than cores would only make them wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --cov --cov-report=term

.PHONY: demo test test-full lint types site bench clean

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@echo "Installing kdcache and the packages that it runs with into $(VENV). This takes some minutes, once."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) pip setuptools
	@# First and by its exact version: left to a range, pip would choose a build with gigabytes of CUDA libraries.
	@$(PIP) torch
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(READY): $(INSTALLED)
	@echo "Installing what the tests and checks need as well."
	@$(PIP) --no-build-isolation --editable '.[test,docs]'
	@touch $@

$(SITE_READY): $(INSTALLED)
	@echo "Installing what the site needs as well."
	@$(PIP) --no-build-isolation --editable '.[docs]'
	@touch $@

demo: $(INSTALLED)  ## the whole pipeline on the embedded corpus
	@$(VENV)/bin/kdcache demo demo-run

test: $(READY)  ## the quick tier, which CI runs
	$(PYTEST) -m "not full"

test-full: $(READY)  ## the long loops as well
	$(PYTEST) -o faulthandler_timeout=7200

lint: $(READY)  ## style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(READY)  ## types
	$(RUN) -m mypy

site: $(SITE_READY)  ## the documentation, in build/site; a link that leads nowhere is an error
	$(RUN) -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs build/site
	@echo "The site begins at build/site/index.html"

bench: $(READY)  ## performance, as ratios
	$(RUN) -m benchmarks read
	$(RUN) -m benchmarks scale
	$(RUN) -m benchmarks dump
	$(RUN) -m benchmarks train

clean:
	rm -rf $(VENV) demo-run build dist *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
