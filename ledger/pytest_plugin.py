"""Give pytest the fixtures ``ledger_clock`` and ``ledger_queue``.

Every pytest session in an environment with Ledger loads this, so it imports the rest
only when a test asks for it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ledger.queue.queue import Queue
    from ledger.testing import Clock


@pytest.fixture
def ledger_clock() -> "Clock":
    """Give a clock that stands until the test sets it."""
    from ledger.testing.clock import Clock  # noqa: PLC0415

    return Clock()


@pytest.fixture
def ledger_queue(ledger_clock: "Clock") -> "Iterator[Queue]":
    """Give an empty queue of the test's own, which runs by ``ledger_clock``."""
    from ledger.testing import open_queue  # noqa: PLC0415

    with open_queue(clock=ledger_clock) as queue:
        yield queue
