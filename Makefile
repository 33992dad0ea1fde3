# Needs Python 3.11 or newer (with venv) and PyPI; everything else is installed into .venv.
PYTHON ?= python3

BIN := .venv/bin

# Tests start many processes; each would compile all it imports again.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help install demo chat test check docs clean

help:
	@echo "make install   set up .venv with airdraft and nothing more"
	@echo "make demo      see device and edge write a text over a slow link"
	@echo "make chat      chat with a model that is drafted here and verified by an edge (98 MB to download, once)"
	@echo "make test      run the tests"
	@echo "make check     lint, format, types, layers and shape"
	@echo "make docs      the documentation as a site, in build/site; make docs SERVE=1 also serves it"
	@echo "make clean     remove .venv and what the tools left"
	@echo "PYTHON=...     the Python to use, 3.11 or newer (now: $(PYTHON))"

install: .venv/.installed

demo: .venv/.installed
	@$(BIN)/airdraft demo

chat: .venv/.installed
	@$(BIN)/airdraft chat $(ARGS)

test: .venv/.installed-dev
	$(BIN)/python -m pytest -n logical --dist worksteal

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py tests/test_house.py tests/test_structure.py

docs: .venv/.installed-docs
	$(BIN)/python -m bench.site
	@echo "build/site/index.html"
ifdef SERVE
	$(BIN)/python -m http.server --directory build/site --bind 127.0.0.1 8000
endif

clean:
	rm -rf .venv .venv-vllm build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"airdraft needs Python 3.11 or newer, this is %d.%d: try make PYTHON=python3.11" % sys.version_info[:2])'
	@echo "Making .venv"
	@$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | .venv/bin/python
	@echo "Installing airdraft into .venv"
	@$(PIP) install --editable .
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing airdraft and its development tools into .venv"
	@$(PIP) install --editable '.[dev]'
	@touch $@ .venv/.installed

.venv/.installed-docs: pyproject.toml | .venv/bin/python
	@echo "Installing what builds the documentation into .venv"
	@$(PIP) install --editable '.[docs]'
	@touch $@ .venv/.installed
