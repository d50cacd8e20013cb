# make lab   install if needed, then open the course in JupyterLab
# make test  install if needed, then run everything CI runs; CHAPTER=05: one chapter, in minutes
# make seeds run the numeric tests with other numbers: N=20 seeds, from FIRST=0 on
# make sliders  try every slider of a chapter in a browser: CHAPTER="05 06"
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

.PHONY: lab test lint tests tests-models tests-kernels tests-course notebooks shapes seeds sliders build format setup setup-test clean
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

PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
NBVAL := SEQLAB_STRICT=1 SEQLAB_WORK=$$(mktemp -d) $(PYTEST) -q build/nbval --nbval-lax --nbval-current-env \
	--nbval-cell-timeout=120 --junitxml=build/notebooks.xml

# The parts of `make test`, which CI runs side by side.
MODELS := tests/core tests/layers tests/mixers tests/ffn tests/hub $(filter-out tests/test_notebooks.py tests/test_browser.py,$(wildcard tests/test_*.py))
KERNELS := tests/kernels tests/gpu
COURSE := tests/course tests/figures tests/test_notebooks.py tests/test_browser.py

ifdef CHAPTER
test: setup-test
	$(BIN)/ruff check chapters seqlab/course/exercises
	$(BIN)/ruff format --check chapters seqlab/course/exercises
	$(PYTEST) tests/course/test_every_exercise.py tests/test_notebooks.py $(wildcard tests/course/test_ch$(CHAPTER).py) \
		-k "$(CHAPTER)_ or $(CHAPTER). or ch$(CHAPTER)" --junitxml=build/tests.xml
	$(BIN)/python tests/notebooks.py build/nbval $(CHAPTER)
	$(NBVAL)
	@$(BIN)/python tests/table.py build/tests.xml build/notebooks.xml
else
test: lint tests notebooks shapes
	@$(BIN)/python tests/table.py build/tests.xml build/notebooks.xml
endif

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/seqlab build --check

tests: setup-test
	$(PYTEST) --junitxml=build/tests.xml

tests-models: setup-test
	$(PYTEST) $(MODELS)
tests-kernels: setup-test
	$(PYTEST) $(KERNELS)
tests-course: setup-test
	$(PYTEST) $(COURSE)

notebooks: setup-test
	$(BIN)/python tests/notebooks.py build/nbval
	$(NBVAL)

shapes: setup-test
	$(PYTEST) -q $(SHAPED) --jaxtyping-packages='$(CHECKED)' \
		-k "not clear_sentence" # those pass wrong shapes on purpose

# Numbers drawn anew: N seeds from FIRST on, of the tests that draw any. No seed may fail.
N ?= 20
FIRST ?= 0
DRAWN := tests/core tests/layers tests/mixers tests/ffn tests/kernels tests/hub $(patsubst %,tests/test_%.py,mixers model blocks identities extremes)
seeds: setup-test
	$(PYTEST) -q -r fE $(DRAWN) --seeds $(N) --first-seed $(FIRST)

sliders: setup-test
	SLIDERS="$(CHAPTER)" $(TEST_ENV) $(BIN)/python -m pytest tests/test_browser.py -k every_control -q -rA

build: setup-test
	$(BIN)/seqlab build

format: setup-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info
