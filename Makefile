# SPDX-License-Identifier: Apache-2.0
# Each target makes the virtual environment itself if it is missing or older than what it is made of.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Hundreds of processes import the same files: a shell that says that none keeps its code is not heard.
unexport PYTHONDONTWRITEBYTECODE
# Files in the order of tests/conftest.py, the slow ones first: no worker is left with one at the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile \
  --no-loadscope-reorder

.PHONY: help quickstart test test-mcore test-thorough test-slurm test-sanitize test-te test-readers test-vllm check figures wheel clean

help:
	@echo "make quickstart     adapt a small real model to real text on this machine, in minutes"
	@echo "make test           all tests"
	@echo "make test-thorough  the small models of all families, each on every layout that it allows"
	@echo "make test-te        the layers of Transformer Engine, which it builds (Python 3.12, CUDA 13)"
	@echo "make test-sanitize  the C++ with AddressSanitizer and UBSan"
	@echo "make test-readers   exports as other transformers and llama.cpp read them, which it installs"
	@echo "make test-vllm      exports as vLLM serves them on a CPU, which it installs (590 MB)"
	@echo "make check          ruff, mypy, layer and packaging tests"
	@echo "make figures        how big the code is, how far one has to walk in it; today and the goal"
	@echo "make wheel          build dist/megacpt-*.whl"
	@echo "make clean          remove environments and build outputs; quickstart/ and runs/ stay"

$(INSTALLED): pyproject.toml constraints.txt setup.py tools/install.py $(wildcard csrc/*)
	@$(PYTHON) tools/install.py $(VENV)

quickstart: $(INSTALLED)
	@$(BIN)/python tools/quickstart.py

# COVERAGE=1: and say which share of the branches they take, for half as much time again.
test: $(INSTALLED)
	$(PYTEST) $(if $(COVERAGE),-p tests.branch_coverage) -m "not slurm"

# What depends on megatron-core: run again on each version that is supported. Of the slow tests
# those whose numbers come from it; what a run does around it (kills, hangs, exports) is the same.
test-mcore: $(INSTALLED)
	$(PYTEST) -m "mcore and (not slow or every_mcore) and not slurm"

# Every case of every family, and every kind of adapter, on every layout that its rules allow; as many
# kills and drawn layouts as the documentation states; the gate on SmolLM2. `make test` runs a share
# of each.
test-thorough: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --thorough tests/model/test_cases.py \
	  tests/model/adapters/test_training.py tests/train/test_layouts.py tests/train/test_kills.py \
	  tests/train/test_gate.py

# Starts a Slurm of its own on this machine (root, slurm-wlm and munge).
test-slurm: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slurm tests/slurm

# Transformer Engine's layers, constructed for real and without a GPU, in an environment of their own.
PYTHON_TE ?= python3.12
VENV_TE ?= .venv-te

$(VENV_TE)/.te: tools/install_te.py
	@$(PYTHON_TE) tools/install.py $(VENV_TE)
	@$(VENV_TE)/bin/python tools/install_te.py
	@touch $@

test-te: $(VENV_TE)/.te
	LD_LIBRARY_PATH=$$($(VENV_TE)/bin/python tools/install_te.py --library-path) OMP_NUM_THREADS=1 \
	  $(VENV_TE)/bin/python -m pytest -q -m te

# Exports as other versions of transformers and llama.cpp read them: each in a folder of its own,
# torch shared.
test-readers: $(INSTALLED)
	@$(BIN)/python tools/install_readers.py .readers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m readers tests/convert

test-vllm: $(INSTALLED)
	@$(BIN)/python tools/install_readers.py .readers vllm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m readers tests/convert/test_vllm.py

# The C++ once more with AddressSanitizer and UBSan (gcc), in a build of its own: everything that
# reads files or computes with what they say. Leaks are not looked for: Python never frees its own.
SANITIZED := build/sanitize
SANITIZED_TESTS := tests/csrc $(patsubst %,tests/%.py,samples/test_batch samples/test_heldout \
  samples/test_megatron_order samples/test_tape shards/test_fuzz shards/test_reader shards/test_packing)

test-sanitize: $(INSTALLED)
	@mkdir -p $(SANITIZED)
	@MEGACPT_SANITIZE=1 $(BIN)/python setup.py -q build --build-lib $(SANITIZED)/lib \
	  --build-temp $(SANITIZED)/temp > $(SANITIZED)/build.log 2>&1 \
	  || { tail -20 $(SANITIZED)/build.log; exit 1; }
	@export PYTHONPATH=$(SANITIZED)/lib:$(CURDIR) PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1; \
	$(BIN)/python -c 'from megacpt import _C; assert "$(SANITIZED)" in _C.__file__, _C.__file__' \
	  && $(BIN)/python -m pytest -q -n auto --maxprocesses 8 -m "not mcore and not slow" \
	  -p no:cacheprovider -o pythonpath= $(SANITIZED_TESTS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not slow" \
	  tests/test_layers.py tests/test_readme.py tests/test_packaging.py

# Of the source alone, with the standard library: it needs no environment.
figures:
	@$(PYTHON) tools/figures.py

wheel: $(INSTALLED)
	@rm -rf build dist
	@$(BIN)/python -m build --wheel --outdir dist . > $(VENV)/wheel.log 2>&1 \
	  || { tail -20 $(VENV)/wheel.log; exit 1; }
	@ls dist/*.whl

clean:
	rm -rf .venv .venv-newest .venv-te .readers build dist megacpt.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f megacpt/_C.*.so
	find megacpt tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
