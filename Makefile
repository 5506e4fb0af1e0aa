# Two commands matter: `make run` serves, `make test` proves it. Everything is installed into .venv from
# the lock files; nothing outside this folder is touched. `make help` lists the rest.
.DEFAULT_GOAL := run
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help run test test-all agents bench bench-gpu campaign check format lock clean

help:
	@echo "make run        serve with proxy.toml on http://127.0.0.1:8080"
	@echo "make test       the tests, with the real server; leaves out what needs Node or Chromium where they are missing"
	@echo "make test-all   all tests; installs Node from PyPI for the agents"
	@echo "make agents     only the coding agents (pi, OpenCode, Qwen Code, Claude Code, Codex)"
	@echo "make check      format, lint, types for Linux and macOS, import contracts"
	@echo "make format     format, and fix what the linter can fix"
	@echo "make bench      figures: WHAT=part [part ...] SEED=n SECONDS=n N=n DOCUMENT=1; parts are tests/bench/*.py"
	@echo "make campaign   faults, memory, hostile input: the same options; parts are tests/campaign/*.py"
	@echo "make bench-gpu  figures on a CUDA device, in the environment of PYTHON"
	@echo "make lock       resolve the lock files anew from pyproject.toml"
	@echo "make clean      remove .venv and .out"

run: $(VENV)/run.stamp
	$(BIN)/mlxguard-proxy --config proxy.toml

# Half of their time tests wait for processes that they started, so two at once are not too many for two cores.
PYTEST = $(BIN)/pytest -rs --numprocesses=2 --dist=worksteal

# Leaves out by name what needs Node or Chromium where they are missing.
test: $(VENV)/dev.stamp
	$(PYTEST)

test-all: $(VENV)/agents.stamp
	$(PYTEST) --require-all --durations=20

# Coding agents alone; they are installed under .out/ by the first test that needs them.
agents: $(VENV)/agents.stamp
	$(PYTEST) --require-all -m node

# Figures: WHAT=part [part ...], SEED=, SECONDS=, N=, DOCUMENT=1 (into docs/benchmarks.md). Limits are in
# tests/bench/bars.toml.
FIGURES = $(BIN)/python -m tests.figures $@ $(WHAT) $(SEED:%=--seed=%) $(SECONDS:%=--option=--seconds=%) $(N:%=--option=--number=%)

bench campaign: $(VENV)/dev.stamp
	$(FIGURES)

# In the environment that PYTHON names, since the CUDA build of MLX is not in the lock files. Skips without a GPU.
bench-gpu:
	$(PYTHON) -m tests.bench.gpu

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Python compiles what is imported; of transformers alone, most never is.
PIP_INSTALL = $(BIN)/pip install --quiet --no-compile

$(VENV)/run.stamp: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with `make PYTHON=python3.12 run`")'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --require-hashes -r requirements.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements-dev.lock
	$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	touch $@

$(VENV)/agents.stamp: $(VENV)/dev.stamp requirements-agents.lock
	$(PIP_INSTALL) --require-hashes -r requirements-agents.lock
	touch $@

# Locks hold for every platform and Python that is supported.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-find-links

lock: $(VENV)/dev.stamp
	$(LOCK) --group build pyproject.toml -o requirements.lock
	$(LOCK) --group dev -c requirements.lock -o requirements-dev.lock
	$(LOCK) --group agents -o requirements-agents.lock

clean:
	rm -rf $(VENV) .out
