# Two commands: `make repro` (the demo from nothing to a report) and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Spinning OpenMP barriers make small models erratic on shared cores; no stage talks to a model hub.
export OMP_WAIT_POLICY ?= passive
export HF_HUB_OFFLINE ?= 1

.PHONY: repro test lint format clean

repro: $(VENV)/.installed
	@git rev-parse --is-inside-work-tree >/dev/null 2>&1 || dvc config --local core.no_scm true
	@ospo graph
	dvc repro
	@ospo result

test: $(VENV)/.installed-dev lint
	python -m pytest

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

clean:
	rm -rf data $(VENV)
