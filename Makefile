# make demo: set up, encode a photograph, decode every prefix, print the table.
# make test: set up, run the default test suite.
# Both work on a fresh machine with Python >= 3.11 (its venv module included);
# PYTHON=python3.12 picks another one, VENV=dir another place.

PYTHON ?= python3
VENV ?= .venv
CUDA ?= cuda13
BIN = $(VENV)/bin

.PHONY: demo test test-slow test-gpu test-h200 test-browser lint format docs tutorial clean

demo: $(VENV)/.demo
	$(BIN)/python -m launch.demo --output=demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist=loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# On a machine with a CUDA device; CUDA=cuda12 for an older driver. Without the
# first line, all tests would be skipped where JAX finds no device.
test-gpu: $(VENV)/.dev-$(CUDA)
	$(BIN)/python -c 'import jax; print(*jax.devices("cuda"))'
	$(BIN)/python -m pytest -m gpu -v

# Compiles for a GPU on a machine without one; Python >= 3.12, its own
# environment of 1.5 GB.
test-h200: $(VENV)-h200/.dev
	$(VENV)-h200/bin/python -m pytest -m h200 -v -s tests/h200_test.py

# In headless Chromium (on Debian: apt install chromium npm), driven by packages
# of npm that no one else needs.
test-browser: $(VENV)/.dev build/browser/.stamp
	$(BIN)/python -m pytest -m browser -v

build/browser/.stamp:
	mkdir -p build/browser
	npm install --prefix build/browser --no-audit --no-fund --silent \
	  playwright-core@1 axe-core@4
	@touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/pyink --check -q .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/pyink -q .

# The API reference, build/docs/index.html.
docs: $(VENV)/.dev
	$(BIN)/python -W error docs/reference.py build/docs

# Runs docs/tutorial.md and puts what it prints and draws into it.
tutorial: $(VENV)/.dev
	$(BIN)/python -m tests.tutorial_test

clean:
	rm -rf $(VENV) $(VENV)-h200 build demo *.egg-info

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

$(VENV)/.dev-$(CUDA): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[dev,$(CUDA)]'
	@touch $@

$(VENV)-h200/.dev: pyproject.toml tests/requirements-h200.txt
	$(PYTHON) -m venv $(VENV)-h200
	$(VENV)-h200/bin/python -m pip install -qq -e '.[dev]'
	$(VENV)-h200/bin/python -m pip install -qq --no-deps \
	  -r tests/requirements-h200.txt
	@touch $@
