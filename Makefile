# Every target sets up what it needs on a machine with Python >= 3.11, a C++ compiler and make.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/bin/uv
export HF_HUB_DISABLE_TELEMETRY := 1
# Where this is set, each process would compile torch's modules anew, which takes longer than most tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test e2e cluster check bench format generate clean

help: ## show this list
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv

# A stamp for each way to install: what octavo runs on, and what is needed to work on it. Both compile csrc/.
SOURCES := pyproject.toml constraints.txt $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name 'CMakeLists.txt' -o -name '*.cu' -o -name '*.cuh')

$(VENV)/.all: $(SOURCES) | $(UV)
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[all]'
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(UV)
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.all

demo: $(VENV)/.all ## answer a question with a small real model, on this machine
	$(BIN)/octavo up examples/01-quickstart.yaml --ask "In one sentence: what does Kubernetes do?"

test: $(VENV)/.dev ## the tests that need no cluster
	$(BIN)/python -m pytest -q

check: $(VENV)/.dev ## lint, types, layers, formats, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/python -m tools.generate --check

generate: $(VENV)/.dev ## write the files that are derived from octavo_api
	$(BIN)/python -m tools.generate

format: $(VENV)/.dev ## format everything
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

cluster: ## a Kubernetes to try it on: the KUBECONFIG that is set, else kind, else one made here
	tests/e2e/cluster/up

e2e: $(VENV)/.dev ## the tests on a real cluster
	tests/e2e/run

bench: $(VENV)/.dev ## the figures of the README, on this machine
	$(BIN)/python -m bench

clean: ## remove what was built
	rm -rf $(VENV) build dist
