# Every target sets up its own environment in .venv, quickly when that is already done.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
EXTRAS ?= dev

.PHONY: demo test soak lint bench clean

demo: $(STAMP)  ## train the default experiment
	$(BIN)/bigjax train --config=experiments/digits_cnn.py

test: $(STAMP)  ## all tests, slow ones included; PYTEST="-k name" runs some
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal $(PYTEST)

soak: $(STAMP)  ## kills, damage, changing devices and mutations, for about half an hour; prints figures
	$(BIN)/python -m tests.faults.soak $(SOAK)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## the figures of benchmarks/README.md
	$(BIN)/python -m benchmarks.loop
	$(BIN)/python -m benchmarks.loader $(if $(PEERS),--peers=$(PEERS))
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.families
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.tasks --data=data
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.scaling
ifdef PEERS  # a Python with torch and transformers
	$(BIN)/python -m benchmarks.training --peers=$(PEERS) --json=benchmarks/training.json
	$(BIN)/python -m benchmarks.generation --peers=$(PEERS)
	$(BIN)/python -m benchmarks.pretrained --peers=$(PEERS)
endif

# uv where it is installed, otherwise venv and pip; exact versions from the constraints of this Python.
$(STAMP): pyproject.toml $(wildcard constraints/*.txt)
	@set -e; \
	if command -v uv >/dev/null 2>&1; then \
	    test -x $(BIN)/python || uv venv --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
	    pip="uv pip install --python $(BIN)/python"; \
	else \
	    test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	    pip="$(BIN)/python -m pip install --quiet --disable-pip-version-check"; \
	fi; \
	version=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	constraints=constraints/python$$version.txt; \
	echo "setting up $(VENV) for Python $$version (about a minute)"; \
	if test -f $$constraints; then $$pip --constraint $$constraints --editable ".[$(EXTRAS)]"; \
	else $$pip --editable ".[$(EXTRAS)]"; fi; \
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info
