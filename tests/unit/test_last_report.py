"""Whatever a handler returns or raises, its attempt has a last report that the ledger can store."""

import builtins
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import pytest
from hypothesis import given, settings

from ledger import Fail, InvalidInput, Retry, RunningJob
from ledger.queue.queue import Handler
from ledger.rules import json_text
from ledger.rules.commands import (
    LARGEST_REPORT,
    LONGEST_ERROR,
    LONGEST_ERROR_LINE,
    Complete,
    FailAttempt,
    Log,
    OnAttempt,
)
from ledger.worker.error_text import cut, described
from ledger.worker.last_report import perform
from tests.hostile_objects import Hostile, Outcome
from tests.strategies import any_outcomes

MEBI: Final = 1024 * 1024


class JobAlone(RunningJob):
    """A running job without a queue: it has an id and an attempt, and keeps its reports."""

    def __init__(self) -> None:
        self.id, self.attempt = self._key = 7, 2
        self.reports: list[OnAttempt] = []

    def _report(self, report: OnAttempt) -> None:
        self.reports.append(report)


def report_of(function: Callable[[RunningJob], Any]) -> OnAttempt:
    try:
        return perform(Handler(function, 1), JobAlone())
    except BaseException as error:  # noqa: BLE001 - as hostile as what was raised
        escaped = type.__dict__["__name__"].__get__(type(error))
    # Without the error, which pytest could not show.
    raise AssertionError(f"perform raised {escaped}")


def report_of_raised(error: BaseException) -> FailAttempt:
    def handler(_: RunningJob) -> None:
        raise error

    return cast(FailAttempt, report_of(handler))


def lines_of(report: OnAttempt) -> list[str]:
    assert isinstance(report, FailAttempt)
    text = json.loads(report.error)
    assert isinstance(text, str)
    return text.split("\n")


# --- anything at all


def test_whatever_a_handler_does_ends_its_attempt() -> None:
    perform_any_outcomes(examples=100)


def perform_any_outcomes(*, examples: int) -> None:
    """Perform handlers that return or raise anything; tests/soak does so more often."""

    @settings(max_examples=examples)
    @given(any_outcomes())
    def perform_it(outcome: Outcome) -> None:
        report = report_of(lambda _: outcome.happen())

        assert (report.job_id, report.attempt) == (7, 2)
        if isinstance(report, Complete):
            assert not outcome.raises
            assert report.result is None or is_storable_json(report.result)
        else:
            assert isinstance(report, FailAttempt)
            assert is_storable_json(report.error)
            lines = lines_of(report)
            assert 0 < len(lines[0]) <= LONGEST_ERROR_LINE
            assert len("\n".join(lines)) <= LONGEST_ERROR

    perform_it()


def is_storable_json(text: str) -> bool:
    return (
        type(text) is str
        and len(text) <= LARGEST_REPORT
        and json_text.text("report", text.encode()) == text
    )


# --- what is raised


class WithoutConstructor(Retry):
    def __init__(self) -> None:
        pass


class NeverWithoutConstructor(Fail):
    def __init__(self) -> None:
        pass


def test_a_retry_whose_constructor_was_not_called_waits_as_the_backoff_says() -> None:
    report = report_of_raised(WithoutConstructor())

    assert (report.retry_after_ms, report.final) == (None, False)
    assert lines_of(report)[0] == f"{__name__}.WithoutConstructor"


def test_a_fail_whose_constructor_was_not_called_is_final() -> None:
    report = report_of_raised(NeverWithoutConstructor())

    assert (report.retry_after_ms, report.final) == (None, True)


@pytest.mark.parametrize("after_ms", [-1, 0.5, "soon", True, 2**53, [], float("nan")])
def test_a_retry_with_a_wait_that_cannot_be_fails_for_that_reason(after_ms: Any) -> None:
    error = Retry("later")
    error.after_ms = after_ms

    report = report_of_raised(error)

    assert (report.retry_after_ms, report.final) == (None, False)
    assert lines_of(report)[0] == (
        "ledger.errors.InvalidInput: after_ms: expected an integer from 0 to 9007199254740991, "
        f"got {after_ms!r}"
    )
    assert "ledger.Retry: later" in lines_of(report)


@pytest.mark.parametrize(
    "error",
    [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), MemoryError(), StopIteration(1)],
    ids=lambda error: type(error).__name__,
)
def test_what_ends_other_programs_fails_the_attempt(error: BaseException) -> None:
    assert lines_of(report_of_raised(error))[0].startswith(type(error).__name__)


def test_a_handler_that_calls_itself_without_end_fails() -> None:
    def handler(job: RunningJob) -> None:
        handler(job)

    report = report_of(handler)

    assert lines_of(report)[0].startswith("RecursionError: maximum recursion depth exceeded")


@pytest.mark.parametrize(
    ("methods", "first"),
    [
        ({"__str__": "raises ZeroDivisionError"}, "<exception str() failed>"),
        ({"__str__": "raises SystemExit"}, "<exception str() failed>"),
        ({"__class__": "raises ZeroDivisionError"}, "broken"),
        ({"__class__": "returns a class"}, "broken"),
        ({"__traceback__": "raises ZeroDivisionError"}, "broken"),
        ({"__traceback__": "returns itself"}, "broken"),
        ({"__cause__": "raises KeyboardInterrupt"}, "broken"),
        ({"__cause__": "returns another exception"}, "broken"),
        ({"__context__": "returns another exception"}, "broken"),
        ({"__notes__": "raises ZeroDivisionError"}, "broken"),
        ({"__notes__": "returns a list without end"}, "broken"),
        ({"__getattribute__": "raises MemoryError"}, "broken"),
        ({"args": "raises ZeroDivisionError"}, "broken"),
        (
            {"__str__": "raises GeneratorExit", "__cause__": "returns None"},
            "its message cannot be shown, because __str__ failed",
        ),
        ({"__str__": "returns a lying text"}, "a lie"),
    ],
    ids=str,
)
def test_an_error_whose_own_methods_fail_or_lie_is_described(
    methods: dict[str, str], first: str
) -> None:
    lines = lines_of(report_of_raised(Hostile(ValueError, methods).make()))

    assert lines[0] == f"tests.hostile_objects.HostileValueError: {first}"
    assert lines[1] == "Traceback (most recent call last):"
    assert "in handler" in "".join(lines)


def test_an_error_that_tells_nothing_but_its_class_is_described_by_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not for all of the test: pytest describes failures with the same module.
    with monkeypatch.context() as patch:
        patch.setattr(traceback, "TracebackException", out_of_memory)
        patch.setattr(traceback, "format_tb", out_of_memory)
        report = report_of_raised(ValueError("broken"))

    assert lines_of(report)[0] == "ValueError: its message and traceback cannot be shown"


def test_an_error_that_cannot_even_be_named_is_described_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(traceback, "TracebackException", out_of_memory)
        patch.setattr("ledger.worker.error_text._name", out_of_memory)
        report = report_of_raised(ValueError("broken"))

    assert lines_of(report) == ["an error that cannot be described"]


def out_of_memory(*_: object, **__: object) -> None:
    raise MemoryError


BUILT_IN: Final = [
    each
    for each in vars(builtins).values()
    if isinstance(each, type) and issubclass(each, BaseException)
]


@pytest.mark.parametrize("class_", BUILT_IN, ids=lambda class_: class_.__name__)
def test_an_ordinary_error_is_described_as_python_does(class_: type[BaseException]) -> None:
    arguments = {
        UnicodeDecodeError: ("utf-8", b"\xff", 0, 1, "broken"),
        UnicodeEncodeError: ("utf-8", "\ud800", 0, 1, "broken"),
        UnicodeTranslateError: ("\ud800", 0, 1, "broken"),
        BaseExceptionGroup: ("two", [ValueError("one"), KeyError("two")]),
        ExceptionGroup: ("two", [ValueError("one"), KeyError("two")]),
    }.get(class_, ("broken",))
    with pytest.raises(class_) as raised:
        raise_in_context(class_(*arguments))
    error = raised.value
    error.add_note("a note")

    _, *text = json.loads(described(error)).split("\n")

    assert "\n".join(text) == "".join(traceback.format_exception(error))


def raise_in_context(error: BaseException) -> None:
    try:
        [].pop()
    except IndexError:
        raise error from OSError("the cause")


def test_a_syntax_error_far_to_the_right_is_not_marked_with_as_many_characters() -> None:
    error = SyntaxError("broken", ("file", 1, 1, "1 +", 1, sys.maxsize))

    lines = lines_of(report_of_raised(error))

    assert lines[0] == "SyntaxError: broken (file, line 1)"


def chain(*, length: int) -> BaseException:
    error: BaseException = ValueError("the first")
    for number in range(length):
        following = ValueError(f"error {number}")
        following.__cause__ = error
        error = following
    return error


def test_of_too_many_causes_none_is_described() -> None:
    few = lines_of(report_of_raised(chain(length=20)))
    many = lines_of(report_of_raised(chain(length=20_000)))

    assert (few[0], many[0]) == ("ValueError: error 19", "ValueError: error 19999")
    assert ("ValueError: the first" in few, len(many) < 10) == (True, True)


# --- how long it may be


@pytest.mark.parametrize("most", [50, 51, 1_000])
def test_what_is_too_long_is_cut_in_the_middle(most: int) -> None:
    text = "".join(chr(0x4E00 + number % 20_000) for number in range(5_000))

    short = cut(text, most)

    head, tail = short.split(" [… ")[0], short.split(" …] ")[1]
    assert len(short) <= most
    assert len(short) >= most - 1
    assert text.startswith(head)
    assert text.endswith(tail)
    assert f"[… {len(text) - len(head) - len(tail)} characters left out …]" in short


def test_what_is_not_too_long_is_not_cut() -> None:
    assert cut("x" * 50, 50) == "x" * 50


def test_a_long_error_is_cut_and_says_how_much_was_left_out() -> None:
    text = "\n".join(lines_of(report_of_raised(ValueError("a" * MEBI + "\nthe end"))))

    first = text.split("\n")[0]
    # The number of digits is not known before.
    assert LONGEST_ERROR - 1 <= len(text) <= LONGEST_ERROR
    assert LONGEST_ERROR_LINE - 1 <= len(first) <= LONGEST_ERROR_LINE
    assert first.startswith("ValueError: aaa")
    assert "characters left out" in first
    assert text.endswith("aaa\nthe end\n")


def test_an_error_within_its_bounds_is_whole() -> None:
    message = "a" * (LONGEST_ERROR_LINE - len("ValueError: "))

    lines = lines_of(report_of_raised(ValueError(message)))

    assert (lines[0], lines[-2]) == (f"ValueError: {message}", f"ValueError: {message}")


def test_the_bound_of_an_error_includes_visible_escapes() -> None:
    text = "\n".join(lines_of(report_of_raised(ValueError("\0\ud800" * MEBI))))

    assert LONGEST_ERROR - 1 <= len(text) <= LONGEST_ERROR
    assert "\\0\\ud800" in text


# --- the result


def test_a_result_has_a_largest_size() -> None:
    fits = report_of(lambda _: "x" * (LARGEST_REPORT - 2))
    too_large = report_of(lambda _: "x" * (LARGEST_REPORT - 1))

    assert isinstance(fits, Complete)
    assert lines_of(too_large)[0] == (
        "ledger.errors.InvalidInput: result: expected at most 16777216 characters of JSON, got more"
    )


class Endless(list[Any]):
    """A list whose iterator does not end, and counts how far it came."""

    def __init__(self) -> None:
        super().__init__(["one"])
        self.given = 0

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.given += 1
            yield "x" * MEBI


class EndlessPairs(dict[str, Any]):
    def items(self) -> Any:
        return ((str(number), "x" * MEBI) for number in iter(int, 1))


def test_a_result_is_not_encoded_further_than_it_may_be_large() -> None:
    endless = Endless()

    report = report_of(lambda _: {"rows": endless})

    assert "result: expected at most 16777216 characters" in lines_of(report)[0]
    assert endless.given == LARGEST_REPORT // MEBI


def test_a_result_without_end_fails() -> None:
    report = report_of(lambda _: EndlessPairs(a=1))

    assert "result: expected at most 16777216 characters" in lines_of(report)[0]


def circle() -> Any:
    itself: list[Any] = []
    itself.append(itself)
    return itself


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


class Changing(dict[str, Any]):
    """A dict that changes while it is read, as another thread may change any."""

    def items(self) -> Any:
        for number, pair in enumerate(super().items()):
            self[f"new {number}"] = 1
            yield pair


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({1, 2}, "Object of type set is not JSON serializable"),
        (float("nan"), "Out of range float values are not JSON compliant"),
        (object, "Object of type type is not JSON serializable"),
        (circle(), "Circular reference detected"),
        (nested(100_000), "maximum recursion depth exceeded"),
        (Changing(a=1), "dictionary changed size during iteration"),
        (10**5_000, "Exceeds the limit (4300 digits) for integer string conversion"),
    ],
    ids=["set", "nan", "class", "circle", "nested", "changing", "number"],
)
def test_a_result_that_json_cannot_represent_fails_for_that_reason(
    result: Any, reason: str
) -> None:
    (first, *_) = lines_of(report_of(lambda _: result))

    assert first.startswith(
        f"ledger.errors.InvalidInput: result: expected a value that JSON can represent: {reason}"
    )


def test_a_large_result_is_encoded_as_a_small_one_is() -> None:
    rows = [{"id": number, "x": number / 7, "of": [None, True, "é"]} for number in range(20_000)]

    report = report_of(lambda _: rows)

    assert isinstance(report, Complete)
    assert json.loads(report.result or "") == rows
    assert " " not in (report.result or "")


# --- log and progress


def test_a_log_line_has_a_largest_size() -> None:
    job = JobAlone()

    job.log("x" * (LARGEST_REPORT - 2))
    with pytest.raises(InvalidInput, match="line: expected at most 16777216 characters, got 16777"):
        job.log("%s", "x" * (LARGEST_REPORT - 1))
    with pytest.raises(InvalidInput, match="line: expected at most 16777216 characters, got 167"):
        job.log("x" * (LARGEST_REPORT + 1))

    assert len(job.reports) == 1


def test_progress_data_has_a_largest_size() -> None:
    job = JobAlone()

    job.progress(1, 2, "x" * (LARGEST_REPORT - 2))
    with pytest.raises(InvalidInput, match="progress data: expected at most 16777216 characters"):
        job.progress(1, 2, "x" * (LARGEST_REPORT - 1))
    with pytest.raises(InvalidInput, match="progress data: expected at most 16777216 characters"):
        job.progress(1, 2, Endless())

    assert len(job.reports) == 1


def test_a_log_line_is_a_text_whatever_its_class_says() -> None:
    job = JobAlone()
    line = Hostile(str, {"__str__": "returns a lying text", "__len__": "returns None"}).make()

    job.log(line)

    assert job.reports == [Log(job_id=7, attempt=2, line='"a lie"')]


def test_what_the_handler_makes_of_its_job_does_not_change_the_report() -> None:
    def handler(job: RunningJob) -> None:
        job.id, job.attempt = cast(Any, "id"), -1

    assert report_of(handler) == Complete(job_id=7, attempt=2)
