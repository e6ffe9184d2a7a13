"""The options of a job: what is accepted, and what is refused by name."""

from typing import Any, Final

import pytest

from ledger.errors import InvalidInput
from ledger.queue.kue_options import as_given, create_command, priority
from ledger.rules.commands import LARGEST_INTEGER, Create
from ledger.rules.events import Backoff

BOUNDS: Final = f"an integer from 1 to {LARGEST_INTEGER}"
PRIORITY: Final = "an integer or one of low, normal, medium, high, critical"
BACKOFF: Final = 'true, or {"type": "fixed" or "exponential", "delay": ms, "maxDelay": ms}'
PATHS: Final = "a path such as a.b, or a list of them"


def created(options: object) -> Create:
    return create_command("email", '{"to": 1}', options)


def refused(options: object) -> InvalidInput:
    with pytest.raises(InvalidInput) as error:
        created(options)
    return error.value


# --- what is accepted


@pytest.mark.parametrize("options", [None, {}])
def test_a_job_without_options_has_the_defaults(options: object) -> None:
    assert created(options) == Create(type="email", data='{"to": 1}')


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"attempts": 5}, {"attempts": 5}),
        ({"attempts": "5"}, {"attempts": 5}),
        ({"attempts": 5.0}, {"attempts": 5}),
        ({"attempts": LARGEST_INTEGER}, {"attempts": LARGEST_INTEGER}),
        ({"priority": "low"}, {"priority": 10}),
        ({"priority": "normal"}, {"priority": 0}),
        ({"priority": "medium"}, {"priority": -5}),
        ({"priority": "high"}, {"priority": -10}),
        ({"priority": "critical"}, {"priority": -15}),
        ({"priority": -7}, {"priority": -7}),
        ({"priority": "-7"}, {"priority": -7}),
        ({"priority": 0}, {"priority": 0}),
        ({"priority": -LARGEST_INTEGER}, {"priority": -LARGEST_INTEGER}),
        ({"delay": 1}, {"delay_ms": 1}),
        ({"delay": "60000"}, {"delay_ms": 60_000}),
        ({"ttl": 1}, {"ttl_ms": 1}),
        ({"ttl": "60000"}, {"ttl_ms": 60_000}),
        ({"backoff": True}, {"backoff": Backoff(type="repeat")}),
        ({"backoff": False}, {}),
        (
            {"backoff": {"type": "fixed", "delay": 100}},
            {"backoff": Backoff(type="fixed", delay_ms=100)},
        ),
        (
            {"backoff": {"type": "exponential", "delay": "100", "maxDelay": "900"}},
            {"backoff": Backoff(type="exponential", delay_ms=100, max_delay_ms=900)},
        ),
        (
            {"backoff": {"type": "fixed"}, "delay": 100},
            {"backoff": Backoff(type="fixed", delay_ms=100), "delay_ms": 100},
        ),
        (
            {"backoff": {"type": "fixed", "delay": None, "maxDelay": None}, "delay": 100},
            {"backoff": Backoff(type="fixed", delay_ms=100), "delay_ms": 100},
        ),
        ({"searchKeys": "to"}, {"search_keys": ("to",)}),
        ({"searchKeys": ["to", "from.name"]}, {"search_keys": ("to", "from.name")}),
        ({"searchKeys": []}, {"search_keys": ()}),
        ({"removeOnComplete": True}, {"remove_on_complete": True}),
        ({"removeOnComplete": False}, {}),
        ({"unique": "order 7"}, {"unique": "order 7"}),
    ],
)
def test_an_option_is_read(options: dict[str, Any], fields: dict[str, Any]) -> None:
    assert created(options) == Create(type="email", data='{"to": 1}', **fields)


@pytest.mark.parametrize(
    "name",
    ["attempts", "priority", "delay", "ttl", "backoff", "searchKeys", "removeOnComplete", "unique"],
)
def test_an_option_that_is_null_counts_as_not_given(name: str) -> None:
    assert created({name: None}) == created({})


def test_all_options_go_together() -> None:
    command = created(
        {
            "attempts": 5,
            "priority": "high",
            "delay": 100,
            "ttl": 200,
            "backoff": {"type": "exponential"},
            "searchKeys": ["to"],
            "removeOnComplete": True,
            "unique": "one",
        }
    )

    assert command == Create(
        type="email",
        data='{"to": 1}',
        attempts=5,
        priority=-10,
        delay_ms=100,
        ttl_ms=200,
        backoff=Backoff(type="exponential", delay_ms=100),
        search_keys=("to",),
        remove_on_complete=True,
        unique="one",
    )


# --- what is refused


@pytest.mark.parametrize("name", ["attempts", "delay", "ttl"])
@pytest.mark.parametrize(
    "value",
    [0, -1, "0", "-1", 1.5, "1.5", True, "five", "", " 5", "0x5", "1e3", "٣", [5], {}, 2**53],
)
def test_what_is_no_positive_integer_is_refused_by_name(name: str, value: Any) -> None:
    error = refused({name: value})

    assert error.field == name
    assert str(error).startswith(f"{name}: expected {BOUNDS}, got ")


@pytest.mark.parametrize(
    "value", ["HIGH", "High", "urgent", "", 1.5, True, False, [], {}, 2**53, "9" * 17, "9" * 5_000]
)
def test_what_is_no_priority_is_refused_by_name(value: Any) -> None:
    error = refused({"priority": value})

    assert error.field == "priority"
    far = isinstance(value, int | str) and str(value).lstrip("-").isdecimal()
    bounds = "an integer from -9007199254740991 to 9007199254740991, or"
    expected = PRIORITY.replace("an integer or", bounds) if far else PRIORITY
    assert str(error).startswith(f"priority: expected {expected}, got ")


@pytest.mark.parametrize(
    "value", ["exponential", "process.exit()", "", 5, 0, [], ["fixed"], {"kind": "fixed"}]
)
def test_what_is_no_backoff_is_refused_and_a_string_never_run(value: Any) -> None:
    error = refused({"backoff": value, "delay": 100})

    assert (error.field, str(error)) == (
        "backoff",
        f"backoff: expected {BACKOFF}, got {value!r}",
    )


@pytest.mark.parametrize(
    ("backoff", "message"),
    [
        ({}, "backoff.type: expected fixed or exponential, got None"),
        ({"type": "linear"}, "backoff.type: expected fixed or exponential, got 'linear'"),
        ({"type": "repeat"}, "backoff.type: expected fixed or exponential, got 'repeat'"),
        ({"type": ["fixed"]}, "backoff.type: expected fixed or exponential, got ['fixed']"),
        ({"type": "fixed", "delay": 0}, f"backoff.delay: expected {BOUNDS}, got 0"),
        ({"type": "fixed", "delay": -1}, f"backoff.delay: expected {BOUNDS}, got -1"),
        ({"type": "fixed", "delay": True}, f"backoff.delay: expected {BOUNDS}, got True"),
        (
            {"type": "fixed", "delay": 9, "maxDelay": "soon"},
            f"backoff.maxDelay: expected {BOUNDS}, got 'soon'",
        ),
        (
            {"type": "fixed"},
            "backoff.delay: expected milliseconds, because the job has no delay to use instead",
        ),
    ],
)
def test_a_backoff_is_refused_by_the_name_of_its_part(backoff: Any, message: str) -> None:
    error = refused({"backoff": backoff})

    assert (error.field, str(error)) == (message.split(":", 1)[0], message)


@pytest.mark.parametrize("value", [5, True, {}, ["to", 5], [["to"]], [None]])
def test_what_is_no_path_is_refused(value: Any) -> None:
    error = refused({"searchKeys": value})

    assert (error.field, str(error)) == (
        "searchKeys",
        f"searchKeys: expected {PATHS}, got {value!r}",
    )


@pytest.mark.parametrize("value", ["true", 1, 0, "", [], {}])
def test_what_is_neither_true_nor_false_is_refused(value: Any) -> None:
    error = refused({"removeOnComplete": value})

    assert (error.field, str(error)) == (
        "removeOnComplete",
        f"removeOnComplete: expected true or false, got {value!r}",
    )


@pytest.mark.parametrize("value", [5, True, [], {}, "", "x" * 256, "a\0b", "\ud800"])
def test_what_is_no_key_is_refused(value: Any) -> None:
    assert refused({"unique": value}).field == "unique"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("state", None),
        ("", None),
        ("x" * 40, None),
        ("Attempts", "attempts"),
        ("attempt", "attempts"),
        ("max_attempts", "attempts"),
        ("remove_on_complete", "removeOnComplete"),
        ("searchkeys", "searchKeys"),
    ],
)
def test_an_option_that_does_not_exist_is_refused_with_those_that_do(
    name: str, meant: str | None
) -> None:
    error = refused({name: 1})
    known = "attempts, priority, delay, ttl, backoff, searchKeys, removeOnComplete, unique"
    hint = "" if meant is None else f"; did you mean {meant}?"

    assert (error.field, str(error)) == (
        name,
        f"unknown option {name!r}; expected one of {known}{hint}",
    )


def test_the_name_of_an_unknown_option_is_shown_in_part() -> None:
    assert len(str(refused({"attempts" * 100_000: 1}))) < 300


# --- what clients of Kue mean


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (None, None),
        ([], None),
        ({}, {}),
        ({"delay": 0, "ttl": "", "attempts": False, "priority": None}, {}),
        ({"backoff": False, "searchKeys": "", "removeOnComplete": 0}, {}),
        ({"delay": 0.0, "ttl": 0.3}, {}),
        ({"delay": 1500.5, "ttl": 1499.4}, {"delay": 1501, "ttl": 1499}),
        ({"searchKeys": []}, {"searchKeys": []}),
        (
            {"backoff": {"type": "fixed", "delay": 99.6, "maxDelay": "7"}},
            {"backoff": {"type": "fixed", "delay": 100, "maxDelay": "7"}},
        ),
        *(({"removeOnComplete": on}, {"removeOnComplete": True}) for on in (1, "1", "true", True)),
        *(({"removeOnComplete": off}, {}) for off in ("0", "false", 0, False)),
        ({"priority": -10, "attempts": "5"}, {"priority": -10, "attempts": "5"}),
    ],
)
def test_what_published_clients_send_is_understood(sent: Any, meant: Any) -> None:
    assert as_given(sent) == meant
    assert created(as_given(sent)) == created(meant)


@pytest.mark.parametrize(
    "sent",
    [
        [1],
        "attempts",
        5,
        False,
        {"delay": -1},
        {"delay": -0.4},
        {"delay": "0"},
        {"ttl": True},
        {"attempts": 2.7},
        {"priority": 2.5},
        {"backoff": []},
        {"backoff": {}},
        {"backoff": {"type": "fixed", "delay": 0}},
        {"searchKeys": {}},
        {"removeOnComplete": "yes"},
        {"removeOnComplete": 2},
        {"removeOnComplete": []},
        {"unique": ""},
        {"unique": 0},
        {"timeout": 0},
    ],
)
def test_what_is_wrong_stays_wrong(sent: Any) -> None:
    refused(as_given(sent))


def test_unknown_options_are_ignored_only_leniently() -> None:
    assert as_given({"timeout": 5, "attempts": 2}, lenient=True) == {"attempts": 2}


@pytest.mark.parametrize("options", [[], [1], "attempts", 5, True])
def test_options_that_are_no_object_are_refused(options: object) -> None:
    error = refused(options)

    assert (error.field, str(error)) == ("options", f"options: expected an object, got {options!r}")


@pytest.mark.parametrize("type_", [None, "", 0, [], {}, False])
def test_a_job_needs_a_type(type_: object) -> None:
    with pytest.raises(InvalidInput) as error:
        create_command(type_, "{}", None)

    assert (error.value.field, str(error.value)) == ("type", "Must provide job type")


@pytest.mark.parametrize("type_", [5, ["email"], True, "x" * 256])
def test_a_type_is_a_short_text(type_: object) -> None:
    with pytest.raises(InvalidInput, match=r"^Must provide job type: expected 1 to 255 characters"):
        create_command(type_, "{}", None)


def test_the_longest_type_is_counted_in_characters() -> None:
    assert create_command("ü" * 255, "{}", None).type == "ü" * 255


def test_a_long_value_is_shown_in_part() -> None:
    assert len(str(refused({"backoff": "x" * 10_000}))) < 200


# --- priorities on their own


@pytest.mark.parametrize(("value", "number"), [("critical", -15), ("-15", -15), (3, 3)])
def test_a_priority_is_a_number_or_a_name(value: object, number: int) -> None:
    assert priority("priority", value) == number


def test_a_priority_is_refused_by_the_name_it_was_asked_for() -> None:
    with pytest.raises(InvalidInput) as error:
        priority("order", "soon")

    assert error.value.field == "order"
