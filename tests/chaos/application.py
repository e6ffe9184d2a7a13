"""An application: a queue with a handler, which notes in a file what it does.

Its working directory is that of a program of the chaos test, so nothing but Ledger is imported.
A line of the journal is one write, so that those of several processes never mix.
"""

import os
import time
from random import Random
from typing import Final

import ledger

SHARE_OF_ERRORS: Final = 0.1

_journal = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
queue = ledger.connect()


def _note(job: ledger.RunningJob, what: str) -> None:
    words = job.id, job.attempt, what, os.getpid(), time.monotonic_ns()
    os.write(_journal, (" ".join(map(str, words)) + "\n").encode())


@queue.process("chaos", concurrency=4)
def handle(job: ledger.RunningJob) -> int:
    """Take as long as the data says, and fail by chance."""
    _note(job, "begin")
    try:
        job.log("attempt %d begins", job.attempt)
        time.sleep(job.data["ms"] / 1000)
        job.progress(1, 2, {"attempt": job.attempt})
        job.log("attempt %d ends", job.attempt)
        if Random(f"{job.id} {job.attempt}").random() < SHARE_OF_ERRORS:
            raise ValueError("by chance")
        return job.attempt
    finally:
        _note(job, "end")
