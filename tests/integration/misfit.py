"""A worker that asks of gunicorn what no gunicorn has."""

from ledger.api.server.gunicorn_needs import NEEDS, Need
from ledger.api.server.gunicorn_worker import LingeringWorker


class MisfitWorker(LingeringWorker):
    """A ``LingeringWorker`` that the installed gunicorn cannot run."""

    needs = (*NEEDS, Need("worker.brews_coffee"))
