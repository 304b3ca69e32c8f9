# Every target makes .venv itself; on a fresh machine `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM := false

.PHONY: help install test test-slow test-gpu test-architectures runtimes lint demo bench mutants docs clean
.DEFAULT_GOAL := help

help:  ## the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

install: $(STAMP)  ## make .venv with everything that development needs

# torch goes first and by its pin: a looser requirement would bring gigabytes of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	$(BIN)/pip install -q -e '.[dev,text,plot]' -c constraints.txt
	@touch $(STAMP)

test: $(STAMP)  ## the test suite: a few minutes on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-slow: $(STAMP)  ## the suites that take longer: kill loops, distributed runs, whole benchmarks' checks
	$(BIN)/python -m pytest -m "slow and not gpu"

test-architectures: $(STAMP)  ## every RoPE architecture that the installed transformers can build; rewrites docs/architectures.md
	$(BIN)/python tools/architectures.py

test-gpu: $(STAMP)  ## what only a CUDA device can show
	$(BIN)/python -m pytest -m gpu

# make runtimes RUNTIMES=mlx builds one of them.
RUNTIMES ?= llama.cpp mlx vllm
runtimes:  ## environments under .runtimes/ for the programs that `verify --runtime` asks: llama.cpp, mlx, vllm (3.4 GB)
	$(PYTHON) tools/runtimes/environments.py $(RUNTIMES)

lint: $(STAMP)  ## ruff, and the strict type checker on the mathematics
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(STAMP)  ## from nothing to a verdict on the bundled model
	$(BIN)/ropewalk demo

bench: $(STAMP)  ## every performance figure, as a ratio beside what one would do otherwise
	for file in bench/bench_*.py; do $(BIN)/python $$file || exit 1; done

mutants: $(STAMP)  ## changes the mathematics in small steps and asks the tests; ROOM=training COUNT=40 for a part
	$(BIN)/python tools/mutants.py $(if $(ROOM),--room $(ROOM)) $(if $(COUNT),--count $(COUNT)) --share $(or $(SHARE),1)

docs: $(STAMP)  ## the documentation, in docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

clean:  ## remove what the targets made
	rm -rf .venv docs/_build .pytest_cache .mypy_cache .ruff_cache bench/out demo-out
