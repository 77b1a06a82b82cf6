# Two commands set everything up on a fresh machine: `make demo` and `make test`. Neither needs a GPU, a hub or an account.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test lint test-slow site clean

$(BIN)/harness: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(BIN)/harness
	$(BIN)/harness run --strategy msft
	$(BIN)/harness run --strategy proportional
	$(BIN)/harness site

test: $(BIN)/harness lint
	$(BIN)/python -m pytest

lint: $(BIN)/harness
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-slow: $(BIN)/harness
	$(BIN)/python -m pytest -m slow

site: $(BIN)/harness
	$(BIN)/harness site

clean:
	rm -rf runs dist build
