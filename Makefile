# What can be done here. `make` alone, or `make help`, prints this list.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check parity gpu bench bench-gpu docs clean

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# One thread a worker: two workers on two cores are faster than four threads fighting for them.
TESTS  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
QUICK  := -n 2 -m "not slow and not gpu"

help:  ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev  ## Install the package and the developer's tools into .venv

demo: $(VENV)/.base  ## Install what a user needs and answer questions about a long video
	@$(BIN)/timeviper demo --out demo
	@echo
	@$(BIN)/timeviper ask demo/video.mp4 "When does the striped black cross appear?"

test: $(VENV)/.dev  ## Run the tests that need neither a GPU nor patience
	@$(TESTS) $(QUICK)

check: $(VENV)/.dev  ## Lint, format, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

parity: $(VENV)/.dev  ## Compare with transformers from the same random weights
	@$(TESTS) -n 2 tests/parity

gpu: $(VENV)/.dev  ## Run the tests that need a CUDA device
	@$(TESTS) -m gpu

bench: $(VENV)/.dev  ## Run the timed scripts; each checks its results before it prints
	@for script in scan_cpu decode ask_hour state_file; do \
		echo "benchmarks/$$script.py"; $(BIN)/python -m benchmarks.$$script || exit 1; done

bench-gpu: $(VENV)/.dev  ## The same on a CUDA device, at the sizes of the 9B model
	@for script in scan_gpu attention_gpu products_gpu prefill_gpu decode_gpu tower_gpu planner_gpu \
			pipeline_gpu state_file_gpu session_gpu; do \
		echo "benchmarks/$$script.py"; $(BIN)/python -m benchmarks.$$script || exit 1; done

docs: $(VENV)/.dev  ## Run the code blocks of the documents and check their links
	@$(TESTS) tests/contracts/test_readme.py

clean:  ## Remove the virtual environment and what runs left behind
	rm -rf $(VENV) demo out build dist

# A stamp file remembers a finished installation, so that later commands start at once.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.base
