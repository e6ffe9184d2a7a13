# Two commands do everything on a machine with Python and make: `make run`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest

# What meets every dependency: the rules, the statements, both drivers, the wire, the command
# line, gunicorn.
LOWEST_TESTS := \
    tests/unit \
    tests/packaging/test_dependencies.py \
    tests/contract/test_reading.py \
    tests/contract/test_wire.py \
    tests/contract/test_writing.py \
    tests/integration/test_catch_up.py \
    tests/integration/test_cli_views.py \
    tests/integration/test_connections.py \
    tests/integration/test_gunicorn.py \
    tests/integration/test_migrations.py \
    tests/integration/test_queue.py \
    tests/integration/test_search.py \
    tests/integration/test_shortages.py \
    tests/integration/test_store.py \
    tests/integration/test_unix_sockets.py

.PHONY: run test check coverage lowest soak chromium format bench clean

# Install, migrate, serve: on SQLite in this directory, or on LEDGER_DATABASE_URL.
run: $(VENV)/.run
	$(BIN)/ledger migrate
	$(BIN)/ledger serve

# Everything that must hold: lint, types, import rules, tests on both databases.
test: chromium check
	$(BIN)/pytest --numprocesses auto --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The same with the lowest version of each dependency, in an environment of its own.
lowest: $(LOWEST)/.lowest
	$(LOWEST)/bin/pytest --numprocesses auto --dist worksteal $(LOWEST_TESTS)

# Which lines and branches the tests reach; they take a third longer then.
coverage: chromium
	$(BIN)/pytest --numprocesses auto --dist worksteal --cov --cov-report term

# What takes too long for every change: with the lowest versions, and many kills and examples.
soak: lowest $(VENV)/.dev
	$(BIN)/pytest --numprocesses auto --dist worksteal tests/soak

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
	rm -rf $(VENV) $(LOWEST) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Ledger needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[postgres]'
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.run

$(LOWEST)/.lowest: $(BIN)/python pyproject.toml tests/lowest.txt
	$(BIN)/python -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	    --requirement tests/lowest.txt --editable '.[postgres,testing]'
	touch $@
