# Everything happens in .venv; nothing outside this folder is changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A process for each core, of one thread: threads of several processes would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal
export COMDEFEND_SHARED ?= ../shared
# Named data sets are read from the shared folder where there is one, and from the hub otherwise.
export COMDEFEND_DATA ?= $(wildcard $(abspath $(COMDEFEND_SHARED))/datasets)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format install results clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/installed  ## install and run the main job: attack, purify, tables and pictures
	$(BIN)/comdefend demo

test: $(VENV)/installed-dev lint  ## install, check style and types, run the quick tests on all cores
	$(PYTEST) -m "not slow"

test-all: test  ## and the slow tests
	$(PYTEST) -m slow

lint: $(VENV)/installed-dev  ## style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev  ## mend what the style checker can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/installed-dev  ## install for development, nothing else

results: $(VENV)/installed-dev  ## measure what the README quotes and has no results yet, and write all tables
	$(BIN)/python -m experiments run reconstruction
	$(BIN)/python -m experiments run gray_box
	$(BIN)/python -m experiments render

clean:  ## remove the environment and everything generated
	rm -rf $(VENV) build dist site comdefend-demo comdefend-report reproduction .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "Python's venv module is needed: apt install python3-venv"; exit 1; }

# torch's CPU build comes first: asked for by another package, pip would fetch the CUDA one.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[evaluate]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
