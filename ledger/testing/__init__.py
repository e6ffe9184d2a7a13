"""Test what uses a queue: one of its own for each test, a clock, and work done on call.

    def test_a_welcome_is_sent():
        with open_queue() as queue:
            queue.process("email")(send)
            queue.create("email", {"to": "tj@learnboost.com"})

            assert [ran.state for ran in drain(queue)] == ["complete"]

``docs/testing.md`` tells more.  Under pytest the fixtures ``ledger_queue`` and
``ledger_clock`` are there as soon as Ledger is installed; ``ledger.testing.strategies``
has what Hypothesis needs.
"""

from typing import Final

from ledger.testing.clock import Clock
from ledger.testing.drain import Ran, drain
from ledger.testing.queues import open_queue

__all__: Final = ["Clock", "Ran", "drain", "open_queue"]
