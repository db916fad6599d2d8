# Two commands on a fresh machine: `make demo`, `make test`. Each makes the environment it needs.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all lint clean

demo: $(READY)
	$(BIN)/dwindle demo

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/typed/dwindle
	ln -sfn $(CURDIR)/dwindle/* $(addprefix $(CURDIR)/,models compress export bench) build/typed/dwindle/
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info
