# The README's commands. Each does its set-up; interrupt any of them, and run it again to continue.
PYTHON ?= python3
SHELL  := /bin/bash -o pipefail
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PLUGINS := rgb depth normal semseg boxes caption clip tensorboard
FILES  := pyproject.toml constraints.txt $(PLUGINS:%=plugins/%/pyproject.toml)

.PHONY: setup demo demo-full demo-draw bench-transfer test test-gpu lint types clean

setup: $(STAMP)

# One pip call installs the engine and the plugins, separate distributions; constraints.txt pins torch.
$(STAMP): $(FILES)
	@echo "1/3 A virtual environment, $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "setuptools>=77" wheel
	@echo "2/3 PyTorch and what else is needed (2 GB, some minutes)"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation -c constraints.txt \
	  -e ".[dev,demo]" $(PLUGINS:%=-e ./plugins/%) \
	  | awk '/^ *(Downloading|Installing)/ {print substr($$0, 1, 100); fflush()}'
	@echo "3/3 Installed: the engine and the plugins ($(PLUGINS))"
	@touch $@

demo: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/scenes/demo.sh demo 2000 200 300

demo-full: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/scenes/demo.sh demo-full 10000 200 800

# Continues from what `make demo` has made.
demo-draw: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/scenes/draw.sh

# The small tables of docs/ablations.md, from the scenes of `make demo`.
bench-transfer: $(STAMP)
	@test -d data/demo/tokens || { echo "data/demo/tokens: not there; run 'make demo' first, which makes them"; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/fourm suite examples/ablations/pretraining-tiny.yaml --jobs 2
	OMP_NUM_THREADS=1 $(BIN)/fourm suite examples/ablations/few-shot.yaml --jobs 2

# Tests of sockets, processes and signals can fall behind on a busy machine: one more try, which the summary lists.
test: $(STAMP) lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --reruns 1 -rR tests

# On a machine with a GPU, with a torch that sees it.
test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu tests/gpu

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info plugins/*/*.egg-info
