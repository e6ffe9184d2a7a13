"""Failures of a worker's steps are counted, logged briefly, and end the worker in the end."""

import logging

import pytest

from ledger.errors import WorkerFailed
from ledger.worker.step_failures import StepFailures


def error(text: str) -> Exception:
    return OSError(text)


def test_equal_failures_have_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    failures = StepFailures("w")
    for text in ("one", "one", "one", "other"):
        failures.add(error(text))

    assert [(record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        ("worker w failed; retrying", True),
        ("worker w failed 2 times in a row; retrying: OSError: one", False),
        ("worker w failed 3 times in a row; retrying: OSError: one", False),
        ("worker w failed; retrying", True),
    ]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_failures_in_a_row_end_the_worker_even_if_each_is_another() -> None:
    failures = StepFailures("w", most=3)
    failures.add(error("one"))
    failures.add(error("two"))
    with pytest.raises(WorkerFailed) as stop:
        failures.add(error("three"))

    assert str(stop.value) == (
        "worker w cannot work: 3 steps in a row have failed, the last with OSError: three; "
        "start it in another process"
    )
    assert (stop.value.worker, stop.value.failures) == ("w", 3)
    assert isinstance(stop.value.__cause__, OSError)


def test_failures_between_which_a_step_succeeds_do_not_end_the_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = StepFailures("w", most=2)
    for _ in range(3):
        failures.add(error("one"))
        failures.clear()

    assert caplog.messages == ["worker w failed; retrying"] * 3
