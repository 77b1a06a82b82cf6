# Two commands set everything up on a fresh machine: `make demo` and `make test`. Neither needs a GPU, a hub or an account.
PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive
# Processes that share the tests; each of them computes with one thread.
JOBS ?= 2
PYTEST := HARNESS_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: demo test lint test-slow test-vllm test-site chromium site clean

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

$(VENV)/ray: $(BIN)/harness
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray]"
	touch $@

test-slow: $(VENV)/ray
	$(PYTEST) -m slow --durations=15

# vLLM's build for CPUs, in an environment of its own: its numpy is another. Without the builds for CUDA that it asks for.
$(VLLM_VENV)/made: constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-vllm.txt
	touch $@

test-vllm: $(BIN)/harness $(VLLM_VENV)/made
	HARNESS_VLLM_PYTHON=$(VLLM_VENV)/bin/python $(PYTEST) --dist loadfile -m "vllm and not gpu" --durations=15

# The site in a browser: Chromium of this machine, else Debian's, else the build that playwright downloads. Never skipped.
$(VENV)/browser: $(BIN)/harness
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[browser]"
	touch $@

chromium: $(VENV)/browser
	@command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable \
	|| { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null; } \
	|| $(BIN)/playwright install chromium \
	|| { echo "test-site: no Chromium; install Debian's package chromium or Google Chrome" >&2; exit 1; }

test-site: chromium
	HARNESS_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser --durations=5

site: $(BIN)/harness
	$(BIN)/harness site

clean:
	rm -rf runs dist build
