# SPDX-License-Identifier: BSD-3-Clause
# Every target sets up what it needs in .venv: a minute or two on a fresh machine, then nothing.
#
#   make test PYTEST_ARGS='-k layers'    hands arguments to pytest; with -n0 in one process
#   make bench DATA=DIR                  repeats the studies too, on the data sets in DIR
#   make bench RESULTS=/tmp/quick BENCH_ARGS='--scale tiny --rounds 1'    a quick look, kept apart
#   make test PYTHON=python3.12          chooses the interpreter (3.11 or newer)

PYTHON = python3 python3.13 python3.12 python3.11
PYTEST_ARGS =
DATA =
BENCH_ARGS =
RESULTS = benchmarks/results/cpu
VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Without isolation, a change of one C++ file compiles that file alone.
EDITABLE = $(PIP) --no-build-isolation --editable
SOURCES = pyproject.toml setup.py $(wildcard csrc/* csrc/*/*)

.PHONY: help demo test lint bench plot wheel sanitize clean
help: ## list the targets (the default)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s%s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo ## make a model forget, on real data, and show what it did
	$(BIN)/unlearnkit demo

test: $(VENV)/.dev ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.dev ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.bench ## time the Fisher beside its peers, half an hour; DATA=DIR repeats the studies too
	$(BIN)/python benchmarks/fisher.py --out $(RESULTS)/fisher.json $(BENCH_ARGS)
	$(BIN)/python benchmarks/fisher.py --sweep --rounds 3 --out $(RESULTS)/sweep.json $(BENCH_ARGS)
	$(BIN)/python -m pytest -q benchmarks/test_kernels.py --benchmark-json=$(RESULTS)/kernels.json
	$(BIN)/python benchmarks/memory_bound.py --out $(RESULTS)/memory_bound.json
	$(BIN)/python benchmarks/channel_budget.py --out $(RESULTS)/channel_budget.json
	$(BIN)/python benchmarks/partition_memory.py --out $(RESULTS)/partition_memory.json
	$(BIN)/python benchmarks/search.py --out $(RESULTS)/search.json
	$(BIN)/python benchmarks/diffusion_memory.py --out $(RESULTS)/diffusion_memory.json
	@if [ -n "$(DATA)" ]; then set -e; for study in assd_defaults data_free; do \
	    $(BIN)/python benchmarks/$$study.py --data "$(DATA)"; done; \
	  $(BIN)/python benchmarks/generators.py --out $(RESULTS)/generators.json; \
	  $(BIN)/python benchmarks/papers/salun_ddpm.py --results $(RESULTS); \
	  for paper in salun del_localisation; do \
	    $(BIN)/python benchmarks/papers/$$paper.py --data "$(DATA)" --small; done; \
	fi

plot: $(VENV)/.demo ## draw docs/fisher.png from what make bench has measured
	$(BIN)/python benchmarks/plot.py $(RESULTS)/sweep.json --out docs/fisher.png

wheel: $(VENV)/.dev ## build the source distribution and the wheel into dist/
	$(BIN)/python -m build --no-isolation

sanitize: $(VENV)/.dev ## run the operators' tests under GCC's address, behaviour and thread sanitizers
	.ci/sanitize $(BIN)/python

clean: ## remove all that make has made, .venv too
	rm -rf $(VENV) build dist *.egg-info unlearnkit/*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment: an interpreter and the build's tools, then the package with its extras.
$(VENV)/.base: constraints.txt
	@fit='import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'; \
	for python in $(PYTHON) ""; do \
	    $$python -c "$$fit" 2>/dev/null && break; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make needs Python 3.11 or newer with its venv module: install it (on Debian" >&2; \
	    echo "python3 and python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$python --version); this takes a minute or two."; \
	$$python -m venv $(VENV)
	$(PIP) setuptools pybind11 ninja
	@touch $@

$(VENV)/.demo: $(VENV)/.base $(SOURCES)
	$(EDITABLE) '.[report]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base $(SOURCES)
	$(EDITABLE) '.[dev]'
	@touch $(VENV)/.demo $@

$(VENV)/.bench: $(VENV)/.dev
	$(EDITABLE) '.[dev,bench]'
	@touch $@
