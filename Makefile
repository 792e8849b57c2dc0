# Two commands: `make repro` (the demo from nothing to a report) and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
ORACLE_VENV := .venv-oracle
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Spinning OpenMP barriers make small models erratic on shared cores; no stage talks to a model hub.
export OMP_WAIT_POLICY ?= passive
export HF_HUB_OFFLINE ?= 1

.PHONY: repro test test-oracle lint format clean

repro: $(VENV)/.installed
	@git rev-parse --is-inside-work-tree >/dev/null 2>&1 || dvc config --local core.no_scm true
	@ospo graph
	dvc repro
	@ospo result

test: $(VENV)/.installed-dev lint
	python -m pytest

# Other implementations (extra [oracle]) bring hundreds of packages: an environment of their own.
test-oracle: $(ORACLE_VENV)/.installed
	$(ORACLE_VENV)/bin/python -m pytest tests/oracle

lint: $(VENV)/.installed-dev
	ruff check .
	ruff format --check .
	mypy

format: $(VENV)/.installed-dev
	ruff check --fix .
	ruff format .

$(VENV)/bin/python:
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(ORACLE_VENV)/.installed: pyproject.toml
	"$(PYTHON)" -m venv $(ORACLE_VENV)
	$(ORACLE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,oracle]'
	@touch $@

clean:
	rm -rf data $(VENV) $(ORACLE_VENV)
