# make lab   install if needed, then open the course in JupyterLab
# make test  install if needed, then run everything CI runs
# make seeds run the numeric tests with other numbers: N=20 seeds, from FIRST=0 on
# make build rebuild every notebook from its source (authors)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
WORKERS ?= 2
# A check of the notebooks runs them one kernel a worker: more threads each would only fight.
TEST_ENV := OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore::DeprecationWarning

# Tests that run again with every shape on every public signature checked.
SHAPED := tests/core tests/layers tests/mixers tests/ffn $(patsubst %,tests/test_%.py,mixers model blocks identities)

# An int passes for a float, as type checkers have it.
CHECKED := seqlab,beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))

.PHONY: lab test seeds build format setup setup-test clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile

setup: $(VENV)/.installed
setup-test: $(VENV)/.installed-test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "seqlab needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

# torch first: on some machines a plain dependency on it would fetch gigabytes of GPU libraries.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing seqlab into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing what the tests need ..."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

lab: setup
	@$(BIN)/seqlab lab

test: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/seqlab build --check
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
	$(TEST_ENV) SEQLAB_STRICT=1 SEQLAB_WORK=$$(mktemp -d) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q \
		--nbval-lax chapters solutions --nbval-current-env --nbval-cell-timeout=120
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q $(SHAPED) --jaxtyping-packages='$(CHECKED)' \
		-k "not clear_sentence" # those pass wrong shapes on purpose

# Numbers drawn anew: N seeds from FIRST on, of the tests that draw any. No seed may fail.
N ?= 20
FIRST ?= 0
DRAWN := tests/core tests/layers tests/mixers tests/ffn tests/kernels tests/hub $(patsubst %,tests/test_%.py,mixers model blocks identities extremes)
seeds: setup-test
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q -r fE $(DRAWN) --seeds $(N) --first-seed $(FIRST)

build: setup-test
	$(BIN)/seqlab build

format: setup-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info
