# Two commands on a fresh machine: `make demo`, `make test`. Each makes the environment it needs.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
EXTRAS := .venv/.extras
CONSUMERS := .consumers/onnxruntime-1.15 .consumers/onnxruntime-1.17 .consumers/onnxruntime-1.20 .consumers/opencv
WEB := .consumers/onnxruntime-web-1.17
# One process per core, one thread in each. Each begins with its share of the files, so that what a file's tests share is
# made once, and takes over tests of another's when it has none left.
SIDE_BY_SIDE := -n auto --dist worksteal
# More options of pytest's. With --no-skips it stops at once where something is missing that tests need, and says what.
PYTEST :=

.PHONY: demo test test-slow everything study docs lint ruff mypy basedpyright clean

demo: $(READY)
	$(BIN)/dwindle demo

test: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow" $(PYTEST)

# All the others.
test-slow: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow $(PYTEST)

# All that tests need and that takes no root: every extra, what the devices arm64 and browser are made of, and other
# readers of ONNX files, each in an environment of its own.
everything: $(EXTRAS) $(CONSUMERS) $(WEB)
	$(BIN)/dwindle doctor --setup arm64
	$(BIN)/dwindle doctor --setup browser

# Hours; it goes on where it was. `$(BIN)/python -m studies.rewinding.run --quick` takes minutes.
study: $(READY)
	$(BIN)/python -m studies.rewinding.run

# The documentation, in build/site: open index.html, no server and no network needed.
docs: $(EXTRAS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# With every extra: an import that leads nowhere is a finding. `make -j2 lint` runs two at once.
lint: ruff mypy basedpyright

ruff: $(EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

mypy basedpyright: $(EXTRAS)
	$(BIN)/$@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(EXTRAS): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,litert,mnn,attest,tensorboard,mlflow,trackio,timm,hf,datasets,lightning,ray,docs]"
	touch $@

.consumers/onnxruntime-1.15: PACKAGES := onnxruntime==1.15.1 "numpy<2"
.consumers/onnxruntime-1.17: PACKAGES := onnxruntime==1.17.3 "numpy<2"
.consumers/onnxruntime-1.20: PACKAGES := onnxruntime==1.20.1 "numpy<2"
.consumers/opencv: PACKAGES := opencv-python-headless==4.10.0.84 "numpy<2"
$(CONSUMERS):
	$(PYTHON) -m venv $@.part
	$@.part/bin/python -m pip install --quiet --only-binary :all: $(PACKAGES)
	mv $@.part $@

$(WEB):
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix $@.part onnxruntime-web@1.17.3
	mv $@.part $@

clean:
	rm -rf .venv .consumers build *.egg-info
