# make demo: set up, encode a photograph, decode every prefix, print the table.
# make test: set up, run the default test suite.
# Both work on a fresh machine with Python >= 3.11 (its venv module included);
# PYTHON=python3.12 picks another one, VENV=dir another place.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-slow lint format clean

demo: $(VENV)/.demo
	$(BIN)/python -m launch.demo --output=demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/pyink --check -q .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/pyink -q .

clean:
	rm -rf $(VENV) build demo *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo 'The venv module is missing; on Debian: apt install python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install -q --upgrade pip

# The stamps stand for "these extras of this pyproject.toml are installed".
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[dev]'
	@touch $@
