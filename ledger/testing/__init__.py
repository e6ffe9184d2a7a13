"""Tools for tests of code that uses a queue: a queue per test, a clock, and jobs run on call.

    def test_a_welcome_is_sent():
        with open_queue() as queue:
            queue.process("email")(send)
            queue.create("email", {"to": "tj@learnboost.com"})

            assert [ran.state for ran in drain(queue)] == ["complete"]

``docs/testing.md`` describes them.  In pytest the fixtures ``ledger_queue`` and
``ledger_clock`` are available once Ledger is installed; ``ledger.testing.strategies``
contains strategies for Hypothesis.
"""

from typing import Final

from ledger.testing.clock import Clock
from ledger.testing.drain import Ran, drain
from ledger.testing.queues import open_queue

__all__: Final = ["Clock", "Ran", "drain", "open_queue"]
