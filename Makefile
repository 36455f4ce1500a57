# torchloss. A fresh machine needs Python 3.10 or newer, g++ and make; `make help` lists the targets.
#
# Variables, to be given on the command line or in the environment:
#   TORCH    what pip installs as PyTorch, options for pip included. The default is the release, which on Linux may bring
#            gigabytes of CUDA packages; PyTorch's site tells the option for its small CPU builds.
#            make test TORCH="torch==2.11.0"
#   PYTHON   the interpreter that makes the virtual environment
#   VENV     the virtual environment. Empty: make none and install nothing, but use PYTHON as it is, which then has torch,
#            ninja, pytest and so on already:   make test VENV= PYTHON=/path/to/python
#   HEADERS  the releases of PyTorch against whose headers `make test-abi` compiles; it downloads each
#   TORCHES  those in which it runs the libraries that are built, downloaded too
#   WORKERS  how many processes share the tests
#   CALLS    how many calls `make fuzz` makes, drawn from SEED
#   ARGS     more arguments for pytest, the demo or the benchmark:   make test ARGS="-k huber -x"
# And those of setup.py, such as TORCHLOSS_CUDA=0.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
WORKERS ?= 2
CALLS ?= 150000
SEED ?= 0
TORCHES ?= 2.11.0 2.15.0
HEADERS ?= 2.11.0 2.12.1 2.13.0 2.14.1 2.15.0
ARGS ?=

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-abi fuzz asan build lint format bench docs clean

ifeq ($(strip $(VENV)),)
  PY := $(PYTHON)
  BIN := $(dir $(shell command -v $(PYTHON)))
  READY :=
  export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
  PY := $(VENV)/bin/python
  BIN := $(VENV)/bin/
  # Named after what was asked for, so that another TORCH is installed and the same is not.
  READY := $(VENV)/.ready-$(firstword $(shell echo '$(TORCH)' | cksum))
endif
CXX_FILES = $(shell find csrc tests/cpp -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## train on real data with torch's losses and with torchloss's, and write a report
	$(PY) -m torchloss demo $(ARGS)

test: build ## run all tests but the slow ones
	$(PY) -m pytest -q -n $(WORKERS) -m "not slow" $(ARGS)

test-slow: build ## run the slow tests
	$(PY) -m pytest -q -n $(WORKERS) -m slow $(ARGS)

test-abi: build ## compile against other releases of PyTorch (HEADERS), and run what is built in some (TORCHES)
	$(PY) tools/check_headers.py $(HEADERS)
	@for release in $(TORCHES); do \
	  $(PY) tools/other_torch.py $$release build/torch-$$release; \
	  (export PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}"; . build/torch-$$release/env.sh; $(PY) tests/smoke.py); \
	done

fuzz: build ## call the operators with spoiled arguments, and try the properties on many examples (CALLS, SEED)
	$(PY) tests/fuzz.py --calls $(CALLS) --seed $(SEED)
	HYPOTHESIS_PROFILE=long $(PY) -m pytest -q -n $(WORKERS) tests/test_properties.py --hypothesis-seed=$(SEED) $(ARGS)

asan: $(READY) ## build with the address and undefined-behaviour sanitizers, and run what calls the operators raw
	CALLS=5000 PYTHON=$(PY) tools/asan.sh

# Incremental, unlike a build through pip. Of ninja's long lines only the file that was compiled is shown.
build: $(READY) ## compile the libraries in place
	@echo "compiling what changed in csrc"
	@$(PY) setup.py -q build_ext --inplace 2>&1 | sed -E 's/^(\[[0-9]+\/[0-9]+\]) .* -c ([^ ]+) .*/\1 \2/; s|$(CURDIR)/||'

lint: $(READY) ## check Python with ruff and C++ with clang-format
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	@if [ -n "$(CXX_FILES)" ]; then echo "clang-format --dry-run"; $(BIN)clang-format --dry-run -Werror $(CXX_FILES); fi

format: $(READY) ## format Python and C++
	$(BIN)ruff check --fix .
	$(BIN)ruff format .
	@if [ -n "$(CXX_FILES)" ]; then $(BIN)clang-format -i $(CXX_FILES); fi

bench: build ## run the benchmark
	$(PY) -m torchloss bench $(ARGS)

docs: build ## run what the tables of docs/ come from, and write them: half an hour
	$(PY) tools/what_works_where.py
	$(PY) -m torchloss.testing.matrix >docs/conformance.md

clean: ## remove everything built, but not the virtual environment
	rm -rf build dist *.egg-info torchloss/*.so .pytest_cache .ruff_cache .hypothesis
	find torchloss tests benchmarks tools -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

ifneq ($(READY),)
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("torchloss needs Python 3.10 or newer: set PYTHON" if sys.version_info < (3, 10) else 0)'
	@echo "making the virtual environment $(VENV)"
	@[ -x $(PY) ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv module is incomplete. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing $(TORCH)"
	@$(PY) -m pip install -q $(TORCH) "setuptools>=77" ninja
	@echo "installing what the tests, the demo and the checks need"
	@TORCHLOSS_SKIP_BUILD=1 $(PY) -m pip install -q --no-build-isolation -e ".[dev]"
	@rm -f $(VENV)/.ready-* && touch $@
endif
