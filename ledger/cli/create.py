"""The command ``create``; it imports little, because scripts call it in loops."""

import os
import sys
from typing import Final

import click
import msgspec

from ledger.cli import output
from ledger.cli.context import Context, actor, as_json, cause, command
from ledger.cli.parameters import Milliseconds, Text
from ledger.errors import InvalidInput
from ledger.queue.kue_options import create_command
from ledger.rules import json_text


@click.command()
@click.argument("type_", metavar="TYPE")
@click.argument("data", default="{}")
@click.option(
    "--priority",
    metavar="PRIORITY",
    help="low, normal, medium, high, critical or an integer; lower numbers run sooner.  "
    "[default: normal]",
)
@click.option("--attempts", metavar="NUMBER", help="Maximum number of attempts.  [default: 1]")
@click.option(
    "--delay", type=Milliseconds(), help="Delay before the job may run: 5000 (ms), 90s, 2h."
)
@click.option(
    "--ttl",
    type=Milliseconds(),
    help="Time that an attempt may run without reporting progress: 5000 (ms), 90s, 2h.",
)
@click.option(
    "--backoff",
    type=Text(),
    metavar="JSON",
    help="Delay between attempts: true repeats --delay; "
    '{"type": "fixed", "delay": 2000} is constant; '
    '{"type": "exponential", "delay": 2000} grows with each attempt.',
)
@click.option(
    "--search-key",
    "search_keys",
    multiple=True,
    metavar="PATH",
    help="Index only this path of the data; may be repeated.",
)
@click.option("--remove-on-complete", is_flag=True, help="Remove the job when it completes.")
@click.option("--unique", metavar="KEY", help="Create no job if one was created with this key.")
@as_json
@command
def create(context: Context, type_: str, data: str, *, as_json: bool, **options: object) -> None:
    """Create a job of TYPE with DATA, a JSON value; - reads it from standard input.

    \b
    ledger create email '{"to": "tj@learnboost.com"}' --attempts 5 --priority high
    ledger create report --delay 90s
    jq -c .order order.json | ledger create invoice - --unique order-4711
    """
    raw = sys.stdin.buffer.read().strip() if data == "-" else os.fsencode(data)
    given = {
        _KUE_NAMES.get(name, name): value
        for name, value in options.items()
        # Compared by identity: 0 equals False, but must be refused with its option's name.
        if not (value is None or value is False or value == ())
    }
    if "backoff" in given:
        given["backoff"] = json_text.parse("backoff", str(given["backoff"]).encode())
    if "searchKeys" in given:
        given["searchKeys"] = list(options["search_keys"])  # type: ignore[call-overload]  # click's tuple
    asked = create_command(type_, _data(raw, came_in=data == "-"), given)
    with context.system() as system:
        outcome = system.ledger.execute(asked, actor=actor(), cause=cause())
    if as_json:
        output.json_line(msgspec.json.encode({"id": outcome.job_id}))
    elif outcome.events:
        click.echo(f"job {outcome.job_id} created")
    else:
        click.echo(f"job {outcome.job_id} was already created with this key")


def _data(raw: bytes, *, came_in: bool) -> str:
    if came_in and not raw:
        raise InvalidInput("data", "data: expected JSON on standard input, got nothing")
    try:
        return json_text.text("data", raw)
    except InvalidInput as error:
        # Probably a string whose quotes the shell has removed.
        if raw[:1].isalpha():
            raise InvalidInput(
                "data", f"{error}; a JSON string needs double quotes: '\"hello\"'"
            ) from error
        raise


_KUE_NAMES: Final = {"search_keys": "searchKeys", "remove_on_complete": "removeOnComplete"}
