"""Be gunicorn's entry: ``gunicorn api.wsgi:app``, set by ``LEDGER_*`` variables.

``LEDGER_THREADS`` has to say how many threads gunicorn was given: half of them may wait
for jobs.
"""

from api.server import build
from ledger.settings import read_settings

app = build(read_settings())
