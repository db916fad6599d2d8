# Two commands on a fresh machine: `make demo`, `make test`. Each makes the environment it needs.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# One process per core, one thread in each; a file's tests stay together, since they share what is slow to make.
SIDE_BY_SIDE := -n auto --dist loadfile

.PHONY: demo test test-all study lint clean

demo: $(READY)
	$(BIN)/dwindle demo

test: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

# Hours; it goes on where it was. `$(BIN)/python -m studies.rewinding.run --quick` takes minutes.
study: $(READY)
	$(BIN)/python -m studies.rewinding.run

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
