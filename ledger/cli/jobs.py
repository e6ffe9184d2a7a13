"""The commands that show and change existing jobs."""

import shlex
from collections.abc import Sequence
from typing import Final, NamedTuple

import click
import msgspec
from sqlalchemy import Connection

from ledger.api.http import json_out
from ledger.cli import output
from ledger.cli.context import REFUSED, Context, actor, as_json, cause, command
from ledger.cli.parameters import NUMBER, Text, Whole
from ledger.errors import JobNotFound, Refused
from ledger.log import codec, store
from ledger.projections.models.job_json import JobJson
from ledger.queue.arguments import LARGEST_PAGE
from ledger.rules import json_text
from ledger.rules.commands import Erase, Move, OnJob, Remove
from ledger.rules.events import Failed, Logged
from ledger.rules.job import LIVE_STATES, State

NEWEST = 20
# Rows of a table of types or workers.
MOST_ROWS: Final = 100


@click.command()
@click.argument("job_id", metavar="ID", type=NUMBER)
@as_json
@command
def show(context: Context, job_id: int, *, as_json: bool) -> None:
    """Show a job and its log; `ledger events --job ID` shows its history.

    It shows the last 20 lines of the log, and the traceback of the last error.
    """
    with context.reading() as (system, connection):
        shown = system.jobs.get(connection, job_id)
        if shown is None:
            if store.read_versions(connection, [job_id]):
                raise Refused(
                    job_id, f"job {job_id} was removed; see `ledger events --job {job_id}`"
                )
            raise JobNotFound(job_id)
        log, is_cut = _log(connection, job_id)
    if as_json:
        output.json_line(shown.json)
        return
    print_job(shown, log)
    if log:
        title = f"log (newest {len(log)} lines)" if is_cut else "log"
        output.table(("at", "attempt", "what", "line"), log, title=title)


class _Line(NamedTuple):
    """A line of a job's log: a message, or the failure of an attempt."""

    at: str | None
    attempt: int
    what: str
    line: str


def _log(connection: Connection, job_id: int) -> tuple[list[_Line], bool]:
    """Return the newest lines of a job's log, oldest first, and whether there are more."""
    lines = []
    found = store.read_log(connection, job_id, newest=NEWEST)
    for kind, version, text in found:
        [envelope] = store.read_stream(connection, job_id, after=version - 1, limit=1)
        event = codec.decode(kind, envelope.schema, envelope.body)
        if isinstance(event, Logged | Failed):
            line = "(erased)" if text is None else json_text.log_line(kind, text)
            lines.append(_Line(output.moment(envelope.at_ms), event.attempt, kind, line))
    return lines, bool(found) and store.has_log(connection, job_id, before=found[0][1])


def print_job(shown: JobJson, log: Sequence[_Line] = ()) -> None:
    """Print a job's fields, one per line, and the traceback of its error."""
    # Raw, so that content is printed as it was posted.
    fields = msgspec.json.decode(shown.json, type=dict[str, msgspec.Raw])
    values = {name: _value(name, raw) for name, raw in fields.items()}
    output.table(("field", "value"), list(values.items()))
    error = msgspec.json.decode(fields.get("error", b'""'))
    trace = error.splitlines()[1:]
    if trace:
        # The last failed attempt, if it is among the lines of *log*.
        attempts = [f" of attempt {line.attempt}" for line in log if line.what == Failed.kind]
        click.echo(f"error{attempts[-1] if attempts else ''}, at {values.get('failed_at')}:")
    for line in trace:
        output.line(f"  {line}")


_UNITS: Final = {"duration": "ms", "delay": "ms", "ttl": "ms", "progress": "%"}


def _value(name: str, raw: msgspec.Raw) -> object:
    if name in {"data", "result", "progress_data"}:
        return bytes(raw).decode()
    value = msgspec.json.decode(raw)
    if name == "error":
        return value.split("\n", 1)[0]
    if name == "attempts":
        return f"{value['made']} of {value['max']} made"
    if name in _UNITS:
        return f"{value} {_UNITS[name]}"
    return output.moment(int(value)) if name.endswith("_at") else value


@click.command()
@click.option(
    "--state",
    type=click.Choice([str(state) for state in LIVE_STATES]),
    help="Only jobs in this state.",
)
@click.option("--type", "type_", type=Text(), metavar="TYPE", help="Only jobs of this type.")
@click.option(
    "--limit",
    type=Whole(1, LARGEST_PAGE),
    default=NEWEST,
    show_default=True,
    help="Maximum number of jobs.",
)
@click.option("--skip", type=NUMBER, default=0, help="Number of jobs to skip.")
@click.option("--oldest", is_flag=True, help="Sort oldest first.  [default: newest first]")
@click.option("--by-priority", is_flag=True, help="Sort in the order in which the jobs run.")
@as_json
@command
def jobs(
    context: Context,
    *,
    state: str | None,
    type_: str | None,
    limit: int,
    skip: int,
    oldest: bool,
    by_priority: bool,
    as_json: bool,
) -> None:
    """List jobs, newest first.

    \b
    ledger jobs --state failed
    ledger jobs --type email --limit 100
    """
    with context.reading() as (system, connection):
        now_ms = system.ledger.time_ms(connection)
        pages = system.read_models.jobs(
            connection,
            state=None if state is None else State(state),
            type_=type_,
            first=skip,
            last=skip + limit - 1,
            descending=not (oldest or by_priority),
            by_priority=by_priority,
        )
        if as_json:
            output.json_array(page[1:-1] for page in pages)
            return
        rows = [row for page in pages for row in _rows(page, now_ms=now_ms)]
    _print_list(rows, "no matching jobs")


@click.command()
@click.argument("words", metavar="WORD...", nargs=-1, required=True)
@click.option(
    "--limit",
    type=Whole(1, LARGEST_PAGE),
    default=NEWEST,
    show_default=True,
    help="Maximum number of jobs.",
)
@click.option("--skip", type=NUMBER, default=0, help="Number of jobs to skip.")
@as_json
@command
def search(
    context: Context, words: tuple[str, ...], *, limit: int, skip: int, as_json: bool
) -> None:
    """Find jobs whose data contains all WORDs, newest first.

    \b
    ledger search welcome tj@learnboost.com
    ledger search invoice 4711 --json | jq -r '.[]' | xargs -r ledger restart

    Case, accents and English endings are ignored. Addresses are found as a whole and by their
    parts. If no process keeps the index up to date, this command updates it first.
    """
    with context.system() as system:
        found = system.search.find(" ".join(words), limit=limit, offset=skip)
        if as_json:
            output.json_line(json_out.ids(found.job_ids))
            return
        with system.database.read() as connection:
            now_ms = system.ledger.time_ms(connection)
            shown = (system.jobs.get(connection, job_id) for job_id in found.job_ids)
            rows = [
                row
                for job in shown
                if job is not None
                for row in _rows(f"[{job.json}]", now_ms=now_ms)
            ]
        none = (
            "no job contains all of these words" if system.search.engine else "LEDGER_SEARCH is off"
        )
    _print_list(rows, none)


def _rows(page: str, *, now_ms: int) -> list[tuple[object, ...]]:
    """Return what a list prints of the jobs of a JSON array."""
    return [
        (
            int(job.id),
            job.type,
            job.state,
            job.priority,
            int(job.progress),
            f"{job.attempts['made']}/{job.attempts['max']}",
            output.age(now_ms - int(job.created_at)),
            # Longer lines are cut anyway, and a list of long ones would fill the memory.
            bytes(job.data).decode()[: output.PIPED_WIDTH],
        )
        for job in msgspec.json.decode(page, type=list[_Listed])
    ]


def _print_list(rows: Sequence[tuple[object, ...]], none: str) -> None:
    """Print one line per job, or *none* if there are no jobs."""
    if not rows:
        click.echo(none)
        return
    output.table(
        ("id", "type", "state", "prio", "%", "tries", "age", "data"), rows, a_line_each=True
    )


class _Listed(msgspec.Struct):
    """The fields of a job that a list prints."""

    id: str
    type: str
    data: msgspec.Raw
    priority: int
    progress: str | int
    state: str
    created_at: str
    attempts: dict[str, int]


@click.command()
@click.option(
    "--limit",
    type=Whole(1, LARGEST_PAGE),
    default=MOST_ROWS,
    show_default=True,
    help="Maximum number of types.",
)
@click.option(
    "--after", type=Text(), metavar="TYPE", default="", help="Only types that follow this one."
)
@as_json
@command
def stats(context: Context, *, limit: int, after: str, as_json: bool) -> None:
    """Count the jobs of each type in each state.

    \b
    ledger stats
    ledger stats --after email --limit 1000

    --json prints the counts of all types together.
    """
    with context.reading() as (system, connection):
        totals = system.state_counts.stats(connection)
        if as_json:
            output.json_line(json_out.stats(totals))
            return
        by_type = system.state_counts.by_type(connection, after=after, limit=limit)
        last = max(by_type, default=after)
        left = system.state_counts.count_types(connection, after=last)
        paused = system.ledger_state.paused(connection)
    rows = [
        (name, *(counts.get(state, 0) for state in LIVE_STATES)) for name, counts in by_type.items()
    ]
    rows.append(("all types", *(totals.counts[state] for state in LIVE_STATES)))
    output.table(("type", *map(str, LIVE_STATES)), rows)
    output.rest(left, "types", f"--after {shlex.quote(last)}")
    for type_, since_ms in paused.items():
        output.line(f"{type_} has been paused since {output.moment(since_ms)}")
    click.echo(f"work time: {totals.work_ms / 1000:,.1f} s")


@click.command()
@click.argument("job_ids", metavar="ID...", type=NUMBER, nargs=-1, required=True)
@as_json
@command
def restart(context: Context, job_ids: tuple[int, ...], *, as_json: bool) -> None:
    """Queue jobs again, regardless of their state.

    \b
    ledger restart 7
    ledger jobs --state failed --limit 1000 --json | jq -r '.[].id' | xargs -r ledger restart

    A job that has no attempts left gets one more.
    """
    move = [Move(job_id=job_id, to=State.INACTIVE.value) for job_id in job_ids]
    _each(context, move, "queued again", as_json=as_json)


@click.command()
@click.argument("job_ids", metavar="ID...", type=NUMBER, nargs=-1, required=True)
@as_json
@command
def remove(context: Context, job_ids: tuple[int, ...], *, as_json: bool) -> None:
    """Remove jobs from every view; their history stays.

    \b
    ledger remove 7 8
    ledger events --job 7
    """
    _each(context, [Remove(job_id=job_id) for job_id in job_ids], "removed", as_json=as_json)


def _each(context: Context, commands: Sequence[OnJob], done: str, *, as_json: bool) -> None:
    """Carry out each command, print its outcome, and exit with 1 if one was refused."""
    refused = False
    left = iter(commands)
    with context.system() as system:
        # Printed part by part: if a later part fails, the earlier ones are recorded.
        for part in system.ledger.submit_in_parts(commands, actor=actor(), cause=cause()):
            # The part comes first, so that no command is taken after its end.
            for answer, each in zip(part, left, strict=False):
                failed = isinstance(answer, Exception)
                refused |= failed
                text = str(answer) if failed else f"job {each.job_id} {done}"
                if as_json:
                    output.json_line(json_out.encode({"error" if failed else "message": text}))
                else:
                    output.line(f"Error: {text}" if failed else text, err=failed)
    if refused:
        raise click.exceptions.Exit(REFUSED)


@click.command()
@click.argument("job_id", metavar="ID", type=NUMBER)
@click.option(
    "--version",
    "versions",
    type=Whole(1),
    multiple=True,
    help="Erase only the content of this event of the job; may be repeated.",
)
@click.option(
    "--reason",
    help="Reason for the erasure. It is stored permanently, so do not repeat erased content.",
)
@click.confirmation_option(prompt="Erased content cannot be restored. Erase it?")
@command
def erase(context: Context, job_id: int, *, versions: tuple[int, ...], reason: str | None) -> None:
    """Erase the content of a job permanently: data, results, errors, log lines.

    \b
    ledger erase 7 --reason 'the customer asked for it'

    The events stay, with their times and actors, and `ledger verify` still succeeds.
    Removed jobs can be erased too. Copies in backups are not erased. A job that is
    still to run, also again, fails instead of running without its data.
    """
    with context.system() as system:
        system.ledger.execute(
            Erase(job_id=job_id, versions=versions or None, reason=reason),
            actor=actor(),
            cause=cause(),
        )
    click.echo(f"content of job {job_id} erased")
