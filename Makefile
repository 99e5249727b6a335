# make demo   environment, install, and a low-bit network trained on bundled data
# make test   everything that must hold: lint, types, layers, doctests, tests
# make test-fast, make test-unit   all tests but those end to end; those of single parts
# make docs   the site of these pages, into build/site
# make bench  speed and memory against the float model, a copy and a baseline: the short form; benchmarks/README.md has the whole
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
INSTALLED = $(VENV)/.installed

.PHONY: demo test test-all test-unit test-fast test-oldest docs bench lint clean

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(VENV)/bin/stillbit demo

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: lint test-all

test-all: $(INSTALLED)
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal --doctest-modules src tests

test-fast: $(INSTALLED)
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m "not end_to_end" tests

test-unit: $(INSTALLED)
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal --doctest-modules -m unit src tests

# torch 2.9 is the oldest that we support; torchvision 0.24 and torchao 0.14 belong to it, and torchao does not say so itself.
test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python -m pip install --quiet 'torch==2.9.*' 'torchvision==0.24.*' 'torchao==0.14.*' --editable '.[dev]'
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal --doctest-modules src tests

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

bench: $(INSTALLED)
	$(VENV)/bin/python -m benchmarks.speed --short

clean:
	rm -rf $(VENV) $(OLDEST) runs build dist
