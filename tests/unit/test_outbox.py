"""Reports reach the ledger in order and in batches, and handlers wait where they are too many."""

import threading
from collections.abc import Callable

from ledger.rules.commands import Complete, FailAttempt, Log, OnAttempt, Progress
from ledger.worker.outbox import Outbox, Reports

PATIENCE_S = 60.0


def line(text: str = "a line") -> Log:
    return Log(job_id=1, attempt=1, line=text)


def progress(percent: int, data: str | None = None) -> Progress:
    return Progress(job_id=1, attempt=1, progress=percent, data=data)


END = Complete(job_id=1, attempt=1, result="7")


# --- the reports on an attempt


def test_reports_are_taken_once_and_in_order() -> None:
    reports = Reports(None)
    given = [line("a"), line("b"), END]
    for report in given:
        reports.put(report)

    assert (reports.take(), reports.take()) == (given, [])


def test_only_the_first_report_since_the_last_take_notifies_the_loop() -> None:
    reports = Reports(None)

    first = [reports.put(report) for report in (line(), progress(1), line())]
    reports.take()
    again = [reports.put(report) for report in (progress(2), line())]

    assert (first, again) == ([True, False, False], [True, False])


def test_of_progress_only_the_newest_is_kept_and_comes_before_the_end() -> None:
    reports = Reports(None)
    for report in (progress(1), line(), progress(2), END):
        reports.put(report)

    assert reports.take() == [progress(2), line(), END]


def test_progress_that_says_nothing_new_is_no_report() -> None:
    reports = Reports(None)
    reports.put(progress(1))
    reports.take()

    news = [reports.put(report) for report in (progress(1), progress(1, "{}"), progress(1))]

    assert news == [False, True, False]
    assert reports.take() == [progress(1, "{}")]


def test_the_same_progress_is_reported_again_where_it_restarts_a_ttl() -> None:
    reports = Reports(0.0)
    reports.put(progress(1))
    reports.take()

    assert (reports.put(progress(1)), reports.take()) == (True, [progress(1)])


def test_reports_that_come_after_the_attempt_is_over_are_discarded() -> None:
    reports = Reports(None)
    reports.put(line())
    reports.close()

    assert [reports.put(report) for report in (line(), progress(1), END)] == [False] * 3
    assert reports.take() == []


def waits(reports: Reports, report: OnAttempt, release: Callable[[], object]) -> bool:
    """Return whether a thread that reports has to wait until *release* is called."""
    done = threading.Event()

    def run() -> None:
        reports.put(report)
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    waited = not done.wait(0.05)
    release()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    return waited


def test_a_handler_waits_while_there_are_too_many_reports() -> None:
    reports = Reports(None, most=2)
    reports.put(line("a"))
    reports.put(line("b"))
    taken: list[OnAttempt] = []

    assert waits(reports, line("c"), lambda: taken.extend(reports.take()))
    assert [*taken, *reports.take()] == [line("a"), line("b"), line("c")]


def test_a_handler_waits_while_its_reports_are_too_long() -> None:
    reports = Reports(None, most_characters=5)
    reports.put(line("12345"))

    assert waits(reports, FailAttempt(job_id=1, attempt=1, error="e"), reports.take)


def test_a_handler_that_waits_goes_on_when_its_attempt_is_over() -> None:
    reports = Reports(None, most=1)
    reports.put(line())

    assert waits(reports, line(), reports.close)
    assert reports.take() == []


# --- the outbox of a worker


def filled(outbox: Outbox[str], *reports: OnAttempt) -> Outbox[str]:
    outbox.add("sender", reports)
    return outbox


def sent(outbox: Outbox[str]) -> list[list[OnAttempt]]:
    """Return the reports of each batch, until there are no more."""
    batches = []
    while batch := outbox.batch():
        batches.append([report for _, report in batch])
        outbox.remove(len(batch))
    return batches


def test_reports_are_sent_in_batches_of_limited_number() -> None:
    reports = [line(str(number)) for number in range(5)]

    assert sent(filled(Outbox(most=2), *reports)) == [reports[:2], reports[2:4], reports[4:]]


def test_reports_are_sent_in_batches_of_limited_length() -> None:
    """But one that is longer than the limit is sent alone."""
    reports = [line("12"), line("34"), line("5"), line("123456"), line("7")]

    batches = sent(filled(Outbox(most_characters=4), *reports))

    assert batches == [reports[:2], reports[2:3], reports[3:4], reports[4:]]


def test_a_batch_that_was_not_answered_is_sent_again_with_its_senders() -> None:
    outbox = Outbox[str]()
    outbox.add("a", [line("1")])
    outbox.add("b", [line("2"), END])
    first = outbox.batch()

    assert outbox.batch() == first == [("a", line("1")), ("b", line("2")), ("b", END)]
    outbox.remove(2)
    assert outbox.batch() == [("b", END)]


def test_an_outbox_is_full_while_it_holds_a_batch() -> None:
    by_number = filled(Outbox(most=2), line("1"))
    by_length = filled(Outbox(most_characters=4), line("123"), progress(1))
    before = by_number.is_full, by_length.is_full
    for outbox in (by_number, by_length):
        filled(outbox, line("4"))
    full = by_number.is_full, by_length.is_full
    for outbox in (by_number, by_length):
        outbox.remove(1)

    assert (before, full) == ((False, False), (True, True))
    assert (by_number.is_full, by_length.is_full) == (False, False)


def test_an_outbox_is_true_while_something_is_unanswered() -> None:
    outbox = filled(Outbox(), END)
    before = bool(outbox)
    outbox.remove(1)

    assert (before, bool(outbox)) == (True, False)
