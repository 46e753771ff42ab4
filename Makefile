# make run | make test | make test-ray | make bench | make chaos
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: run test test-ray check bench chaos clean

run: $(VENV)/.run
	$(BIN)/python -m hpo run study.yaml

test: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	# what failed side by side on a busy machine runs once more, alone
	$(BIN)/python -m pytest -m "not cluster and not slow" -n 3 --dist loadfile || $(BIN)/python -m pytest -m "not cluster and not slow" --last-failed

test-ray: $(VENV)/.ray
	$(BIN)/python -m pytest -m cluster

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

chaos: $(VENV)/.test
	$(BIN)/python -m tests.chaos

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

clean:
	rm -rf $(VENV) studies mlflow.db mlruns/*
