# `make bench` and `make test` set up everything they need in .venv; a second run installs nothing.
PYTHON ?= python3
VENV ?= .venv
BENCH ?=
TESTS ?=

BIN := $(VENV)/bin

.PHONY: bench test lint format clean

bench: $(VENV)/.installed
	$(BIN)/python -m pytest bench/ $(BENCH)

test: $(VENV)/.installed
	$(BIN)/python -m pytest tests/ $(TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .trtgate .pytest_cache .mypy_cache .ruff_cache .hypothesis
