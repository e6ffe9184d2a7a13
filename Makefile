# Two commands do everything on a machine with Python and make: `make run`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test check chromium format bench clean

# Install, migrate, serve: on SQLite in this directory, or on LEDGER_DATABASE_URL.
run: $(VENV)/.run
	$(BIN)/ledger migrate
	$(BIN)/ledger serve

# Everything that must hold: lint, types, import rules, tests on both databases.
test: chromium check
	$(BIN)/pytest --numprocesses auto --dist worksteal --cov --cov-report term

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Hostile pages are tried in a browser: Debian's package, which is installed if it can be.
chromium: $(VENV)/.dev
	@$(BIN)/python -m tests.browser.chromium 2>/dev/null \
	    || test -n "$$LEDGER_TEST_CHROMIUM" || test "$$(id -u)" != 0 \
	    || ! command -v apt-get >/dev/null \
	    || { apt-get update && apt-get install -y --no-install-recommends chromium; }
	@$(BIN)/python -m tests.browser.chromium

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Side by side with real peers, which it installs; needs redis-server, wrk and npm.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Ledger needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[postgres]'
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.run
