# SPDX-License-Identifier: Apache-2.0
# Each target makes the virtual environment itself if it is missing or older than what it is made of.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

.PHONY: help quickstart test test-mcore test-slurm check wheel clean

help:
	@echo "make quickstart   adapt a small real model to real text on this machine, in minutes"
	@echo "make test         all tests"
	@echo "make check        ruff, mypy, layer and packaging tests"
	@echo "make wheel        build dist/megacpt-*.whl"
	@echo "make clean        remove environments and build outputs; quickstart/ and runs/ stay"

$(INSTALLED): pyproject.toml constraints.txt setup.py tools/install.py $(wildcard csrc/*)
	@$(PYTHON) tools/install.py $(VENV)

quickstart: $(INSTALLED)
	@$(BIN)/python tools/quickstart.py

test: $(INSTALLED)
	$(PYTEST) -m "not slurm"

# What depends on megatron-core: run again on each version that is supported.
test-mcore: $(INSTALLED)
	$(PYTEST) -m "mcore and not slurm"

# Starts a Slurm of its own on this machine (root, slurm-wlm and munge).
test-slurm: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slurm

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not slow" \
	  tests/test_layers.py tests/test_readme.py tests/test_packaging.py

wheel: $(INSTALLED)
	@rm -rf build dist
	@$(BIN)/python -m build --wheel --outdir dist . > $(VENV)/wheel.log 2>&1 \
	  || { tail -20 $(VENV)/wheel.log; exit 1; }
	@ls dist/*.whl

clean:
	rm -rf .venv .venv-newest build dist megacpt.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f megacpt/_C.*.so
	find megacpt tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
