"""A program that creates jobs without a server, and notes what it asked for and what it was told.

A line of the file is one write.  ``asks NUMBER COUNT`` comes before the call, and after it one of

* ``created NUMBER``: the COUNT jobs of that number are in the ledger
* ``refused NUMBER``: none of them is
* ``unknown NUMBER``, or no line if the program was killed: all of them are, or none is
"""

import os
import time
from random import Random
from typing import Any, Final

import ledger

LONGEST_PAUSE_S: Final = 0.3
LONGEST_MS: Final = 80


def main() -> None:
    """Create jobs until the process is ended."""
    notes = os.open("produced", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(*words: object) -> None:
        os.write(notes, (" ".join(map(str, words)) + "\n").encode())

    queue = ledger.connect()
    chance = Random()
    while True:
        number = f"p{os.getpid()}x{time.monotonic_ns()}"
        count = chance.choice((1, 1, 1, 5))
        jobs: list[dict[str, Any]] = [
            {
                "type": "chaos",
                "data": {"key": f"{number}n{each}", "ms": chance.randrange(LONGEST_MS)},
                "attempts": 20,
            }
            for each in range(count)
        ]
        note("asks", number, count)
        try:
            if count == 1:
                queue.create(**jobs[0])
            else:
                queue.create_many(jobs)
        except ledger.OutcomeUnknown:
            note("unknown", number)
        except ledger.Unavailable:
            note("refused", number)
        else:
            note("created", number)
        time.sleep(chance.uniform(0, LONGEST_PAUSE_S))


if __name__ == "__main__":
    main()
