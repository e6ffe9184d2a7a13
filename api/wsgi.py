"""Be gunicorn's entry: ``gunicorn api.wsgi:app``, set by ``LEDGER_*`` variables."""

from api.server import build
from ledger.settings import read_settings

app = build(read_settings())
