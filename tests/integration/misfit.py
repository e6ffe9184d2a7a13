"""A worker that asks of gunicorn what no gunicorn has."""

from ledger.api.server.gunicorn_worker import NEEDS, LingeringWorker, Need


class MisfitWorker(LingeringWorker):
    """A ``LingeringWorker`` that the installed gunicorn cannot run."""

    needs = (*NEEDS, Need("worker.brews_coffee"))
