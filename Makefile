# Two commands set everything up on a fresh machine: `make demo` and `make test`. Neither needs a GPU, a hub or an account.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive
# Processes that share the tests; each of them computes with one thread.
JOBS ?= 2
PYTEST := HARNESS_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: demo test lint test-slow site clean

$(BIN)/harness: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[chem,dev,math]"
	touch $@

demo: $(BIN)/harness
	$(BIN)/harness run --strategy msft
	$(BIN)/harness run --strategy proportional
	$(BIN)/harness site

test: $(BIN)/harness lint
	$(PYTEST)

lint: $(BIN)/harness
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-slow: $(BIN)/harness
	$(PYTEST) -m slow --durations=15

site: $(BIN)/harness
	$(BIN)/harness site

clean:
	rm -rf runs dist build
