# Each target does its own set-up; all share one .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The demo's corpus: the source of Python's own standard library, one file a document.
STDLIB = $(shell $(PYTHON) -c "import sysconfig; print(sysconfig.get_paths()['stdlib'])")
TEXT = '$(STDLIB)' --glob '**/*.py' --exclude '*/site-packages/*'
RUN := runs/gpt-tiny
EXPORT := exports/gpt-tiny

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test test-all bench lint format clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## Make .venv with all that the project needs

# torch first and by itself: whatever else asks for it then finds it there.
$(READY): pyproject.toml
	@echo "setting up $(VENV): about 1.5 GB, a minute or more"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$($(BIN)/python -c 'import tomllib; print(next(d for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] if d.startswith("torch")))')"
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $(READY)

demo: $(READY) ## Text to a Hugging Face model: every command of the main path, in minutes on two cores
	$(BIN)/bigtrain data tokenizer $(TEXT) --vocab-size 4096 --out corpora/stdlib.model
	$(BIN)/bigtrain data shard $(TEXT) --tokenizer corpora/stdlib.model --validation-percent 3 --workers 2 --out corpora/stdlib
	$(BIN)/bigtrain data inspect corpora/stdlib/train --documents 1
	$(BIN)/bigtrain launch configs/gpt/tiny.yaml
	test -e $(EXPORT) || $(BIN)/bigtrain export-hf $(RUN) $(EXPORT)
	$(BIN)/bigtrain report $(RUN) --exported $(EXPORT) --prompt 'def main('
	@echo "('source $(BIN)/activate' first, to type bigtrain alone)"

test: $(READY) ## The tests, but for those marked slow
	$(BIN)/python -m pytest

test-all: $(READY) ## All tests, the slow proofs too (up to an hour)
	$(BIN)/python -m pytest -m ''

# Peers to compare with come alone: what they would pull in is another torch.
bench: $(READY) ## The benchmarks of a step, of checkpoints and of the data path, beside others, on a quiet machine
	$(BIN)/pip install --quiet --no-deps litdata lightning-utilities tifffile obstore boto3 botocore s3transfer jmespath python-dateutil six
	$(BIN)/python -m pytest -m '' -s tests/benchmarks/test_step_speed.py tests/benchmarks/test_checkpoint_speed.py tests/benchmarks/test_loader_speed.py tests/benchmarks/test_sharding_speed.py

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY) ## Let ruff write the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove what the targets made
	rm -rf $(VENV) runs corpora exports build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
