"""The pytest fixtures ``ledger_clock`` and ``ledger_queue``.

Every pytest session in an environment with Ledger loads this module, so it imports the rest
of Ledger only when a test uses a fixture.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ledger.queue.queue import Queue
    from ledger.testing import Clock


@pytest.fixture
def ledger_clock() -> "Clock":
    """Return a clock that stands still until the test sets it."""
    from ledger.testing.clock import Clock  # noqa: PLC0415

    return Clock()


@pytest.fixture
def ledger_queue(ledger_clock: "Clock") -> "Iterator[Queue]":
    """Yield an empty queue for this test alone; its clock is ``ledger_clock``."""
    from ledger.testing import open_queue  # noqa: PLC0415

    with open_queue(clock=ledger_clock) as queue:
        yield queue
