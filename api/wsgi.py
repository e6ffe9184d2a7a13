"""Be gunicorn's entry: ``gunicorn api.wsgi:app``."""

import logging
import os

from api.app import App, create_app
from ledger.composition import compose, prepare
from ledger.errors import Unavailable
from ledger.settings import Settings, read_settings
from ledger.sweeper import Sweeper

_log = logging.getLogger(__name__)


def build(settings: Settings) -> App:
    """Return the app of *settings*, with a sweeper in the background.

    Raises:
        SchemaMismatch: The database's tables are not those of this version.
        InvalidInput: The database's URL is none.
    """
    system = compose(settings)
    try:
        prepare(system.database)
    except Unavailable as error:
        # The server starts all the same, answers 503, and recovers by itself.
        _log.warning("%s", error)
    if settings.sweep:
        Sweeper(system.ledger, system.jobs).start()

    def start_anew() -> None:
        """Give a forked child connections, locks and a sweeper of its own."""
        system.ledger.forget()
        if settings.sweep:
            Sweeper(system.ledger, system.jobs).start()

    # With gunicorn's --preload, this module is loaded before the fork.
    os.register_at_fork(after_in_child=start_anew)
    return create_app(
        system.ledger,
        system.jobs,
        system.state_counts,
        largest_body_bytes=settings.largest_body_bytes,
        largest_page=settings.largest_page,
        cors_origins=settings.cors_origins,
    )


app = build(read_settings())
