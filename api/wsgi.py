"""The entry point for gunicorn: ``gunicorn ledger.api.wsgi:app``, set by ``LEDGER_*`` variables.

``LEDGER_THREADS`` must be the number of gunicorn's threads, because half of them may wait for
jobs.
"""

from ledger.api.server.run import build
from ledger.processes.settings import read_settings
from ledger.processes.unknown_variables import warn_once

warn_once()
app = build(read_settings())
