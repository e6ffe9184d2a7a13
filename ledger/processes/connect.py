"""Creation of the queue that an application holds.

The settings are checked at once.  The database is opened, and the modules that this needs are
imported, when the queue is first used.
"""

import os
from collections.abc import Callable
from pathlib import Path
from weakref import WeakMethod

from ledger.database.url_syntax import hide_password
from ledger.processes.settings import Settings
from ledger.queue.opening import Parts
from ledger.queue.queue import Queue


def connect(settings: Settings, *, actor: str) -> Queue:
    """Return the queue on the database of *settings*, without opening it."""
    # A daemon may change its working directory before the first use; relative paths keep
    # their meaning.
    directory = _working_directory()

    def make_parts() -> Parts:
        from ledger.processes.composition import open_parts  # noqa: PLC0415 - see above

        return open_parts(settings, directory=directory)

    shown = hide_password(settings.database_url)
    if settings.schema:
        shown = f"{shown}, schema {settings.schema}"
    queue = Queue(
        make_parts,
        shown_url=shown,
        actor=actor,
        lease_ms=settings.lease_ms,
    )
    os.register_at_fork(
        before=_weakly(queue.before_fork),
        after_in_parent=_weakly(queue.after_fork),
        after_in_child=_weakly(queue.forget),
    )
    return queue


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:
        # It was removed; absolute paths are still valid.
        return None


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls *method* while its object exists, and does not keep it alive."""
    weak = WeakMethod(method)

    def call() -> None:
        there = weak()
        if there is not None:
            there()

    return call
