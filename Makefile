# make run | make test | make test-ray | make docs | make bench | make gpu | make chaos
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: run test lint fast test-ray docs bench gpu chaos clean

run: $(VENV)/.run
	$(BIN)/python -m hpo run study.yaml

test: lint fast

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# what failed side by side on a busy machine runs once more, alone
fast: FAST = -m "not cluster and not slow"
fast: $(VENV)/.test
	$(BIN)/python -m pytest $(FAST) -n 3 --dist loadfile || $(BIN)/python -m pytest $(FAST) --last-failed

# a cluster beside the services: both wait more than they work
test-ray: CLUSTER = -m cluster $(shell grep -l mark.cluster tests/*.py)
test-ray: $(VENV)/.ray
	$(BIN)/python -m pytest $(CLUSTER) -n 2 --dist loadfile || $(BIN)/python -m pytest $(CLUSTER) --last-failed

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html is built"

bench: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,prior]'
	$(BIN)/python -m benchmarks

# on a machine with a GPU, by the Python that has a torch for it; nothing is installed
gpu:
	$(PYTHON) -m benchmarks.gpu

# 500 killed workers, 50 killed drivers, every failpoint and full disk, 400 studies compared, 100,000 study files;
# what is drawn follows from the seed: make chaos SEED=...
chaos: SEED := $(shell shuf -i 0-999999 -n 1)
chaos: $(VENV)/.test
	WORKER_KILLS=500 DRIVER_KILLS=50 FUZZ_CASES=100000 CHAOS_FACTOR=10 COMPARED_SEEDS=100 OMP_NUM_THREADS=1 \
	FAULT_SEED=$(SEED) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest --hypothesis-seed=$(SEED) --timeout 7200 --durations 10 \
	$(addprefix tests/test_,faults.py store.py driver.py journal.py reproducible.py fuzz.py)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV), a minute or two ..."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV), a minute or two ..."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@ $(VENV)/.run

$(VENV)/.ray: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,server]'
	touch $@

$(VENV)/.docs: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) site studies mlflow.db mlruns/*
