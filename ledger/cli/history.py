"""The commands that read the history: ``events``, ``replay``, ``verify`` and ``status``."""

import re
import time
from contextlib import suppress
from datetime import datetime
from typing import Final

import click
from sqlalchemy import Connection

from ledger.api.http import json_out
from ledger.cli import output
from ledger.cli.context import REFUSED, Context, as_json, command
from ledger.cli.jobs import MOST_ROWS, print_job
from ledger.cli.late import late_json, print_late
from ledger.cli.parameters import NUMBER, Whole
from ledger.errors import InvalidInput, JobNotFound, Refused
from ledger.log import store
from ledger.log.store import Envelope
from ledger.projections.point_in_time import PastCounts, counts_at, job_at
from ledger.projections.verify import verify as verifying
from ledger.rules.job import LIVE_STATES

PAGE: Final = 1_000
_POSITION: Final = re.compile("[0-9]{1,16}", re.ASCII)
# Interval at which ``events --follow`` checks for new events.
FOLLOW_S: Final = 0.2


@click.command()
@click.option(
    "--job", "job_id", type=NUMBER, help="Print only events of this job; it may have been removed."
)
@click.option(
    "--after", type=NUMBER, help="Start after this position; with --job, after this version."
)
@click.option("--limit", type=Whole(1), help="Maximum number of events.")
@click.option("--follow", is_flag=True, help="Wait for further events, until Ctrl-C.")
@as_json
@command
def events(
    context: Context,
    *,
    job_id: int | None,
    after: int | None,
    limit: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Print events, one per line; all events without --after and --limit.

    \b
    ledger events --job 7
    ledger events --after 1200 --limit 50
    ledger events --follow --json

    The columns are position, time, job, version in the history of the job, kind, actor,
    cause, body and content. Events of the ledger itself, such as pauses, have job 0.
    """
    with context.system(any_rows=True) as system, suppress(KeyboardInterrupt):
        seen = after or 0
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            with system.database.read() as connection:
                if job_id is None:
                    page = store.read_after(connection, after=seen, limit=size)
                else:
                    page = store.read_stream(connection, job_id, after=seen, limit=size)
            for envelope in page:
                if as_json:
                    output.json_line(json_out.history([envelope])[1:-1])
                else:
                    output.line(_line(envelope))
            if page:
                seen = page[-1].position if job_id is None else page[-1].version
                left = None if left is None else left - len(page)
            elif follow:
                time.sleep(FOLLOW_S)
            elif job_id and not seen:
                raise JobNotFound(job_id)
            else:
                return


def _line(envelope: Envelope) -> str:
    cause = f" ({envelope.cause})" if envelope.cause else ""
    content = f" {envelope.content}" if envelope.content is not None else ""
    return (
        f"{envelope.position:>8}  {output.moment(envelope.at_ms)}  job {envelope.job_id}"
        f" v{envelope.version}  {envelope.kind:<13} {envelope.actor}{cause}"
        f"  {envelope.body}{content}"
    )


@click.command()
@click.option(
    "--at",
    required=True,
    metavar="WHEN",
    help="A position, or an RFC 3339 time such as 2026-11-22T14:00:00Z.",
)
@click.option("--job", "job_id", type=NUMBER, help="Show this job instead of the counts.")
@as_json
@command
def replay(context: Context, *, at: str, job_id: int | None, as_json: bool) -> None:
    """Show the counts, or one job, as of a position or a time.

    \b
    ledger replay --at 1200
    ledger replay --at 2026-11-22T14:00:00Z --job 7

    A position is the number of an event; `ledger events` prints them.
    """
    with context.reading(any_rows=True) as (_, connection):
        position = _position(at, store.read_head(connection).position, connection)
        if job_id is not None:
            shown = job_at(connection, job_id, position)
            if shown is None:
                raise Refused(
                    job_id,
                    f"job {job_id} did not exist at position {position}; `ledger events --job "
                    f"{job_id}` shows its history",
                )
        else:
            with output.progress("Replaying") as advance:
                counts = counts_at(connection, position, advance)
    if job_id is not None and shown is not None:
        output.json_line(shown.json) if as_json else print_job(shown)
    elif as_json:
        output.json_line(json_out.encode(_totals(counts) | {"position": position}))
    else:
        _print_counts(counts, position)


def _position(at: str, newest: int, connection: Connection) -> int:
    if _POSITION.fullmatch(at):
        if int(at) > newest:
            raise InvalidInput.expected("--at", f"a position from 0 to {newest}", at)
        return int(at)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        expected = "a position, or a time with a UTC offset such as 2026-11-22T14:00:00Z"
        raise InvalidInput.expected("--at", expected, at)
    return store.position_at(connection, int(moment.timestamp() * 1000))


def _totals(counts: PastCounts) -> dict[str, int]:
    totals = {f"{state}Count": 0 for state in LIVE_STATES}
    for (_, state), number in counts.jobs.items():
        totals[f"{state}Count"] += number
    return totals | {"workTime": counts.work_ms.total()}


def _print_counts(counts: PastCounts, position: int) -> None:
    types = sorted({type_ for type_, _ in counts.jobs})
    left = len(types) - MOST_ROWS
    types = types[:MOST_ROWS]
    rows: list[tuple[str | int, ...]] = [
        (type_, *(counts.jobs[type_, state] for state in LIVE_STATES)) for type_ in types
    ]
    totals = _totals(counts)
    rows.append(("all types", *(totals[f"{state}Count"] for state in LIVE_STATES)))
    output.table(("type", *map(str, LIVE_STATES)), rows, title=f"as of position {position}")
    if left > 0:
        click.echo(f"… and {left:,} more types, which are counted in the last line")
    click.echo(f"work time: {counts.work_ms.total() / 1000:,.1f} s")


@click.command()
@as_json
@command
def verify(context: Context, *, as_json: bool) -> None:
    """Replay every event and compare: chain, content, every row, tables and triggers.

    It prints which read models it compared and which it did not, such as the search index.
    If anything differs, it names the difference and exits with 1.

    Keep a copy of the position and the chain value that it prints outside the database. If
    the event at that position later has another chain value, the history was rewritten.
    docs/audit.md lists the changes that only such a copy reveals.
    """
    with context.system(any_rows=True) as system, output.progress("Verifying") as advance:
        report = verifying.verify(
            system.database, system.compared, advance, tables=system.own_tables
        )
        report.not_compared |= system.not_compared
    if as_json:
        output.json_line(json_out.encode(report))
    elif report.clean:
        compared = ", ".join(report.projections)
        output.line(f"{report.position} events verified; {compared} match a full replay")
        for name, reason in report.not_compared.items():
            output.line(f"not compared: {name}: {reason}")
        click.echo(f"content erased from {report.erased} events")
        click.echo(f"chain {report.chain or '(empty)'}")
    else:
        click.echo(f"Verification failed ({report.position} events read):", err=True)
        for difference in report.differences:
            for line in (
                f"  {difference.where}",
                f"    expected {difference.expected}",
                f"    found    {difference.found}",
            ):
                output.line(line, err=True)
        output.line(f"compared: {', '.join(report.projections) or 'no read model'}", err=True)
        for name, reason in report.not_compared.items():
            output.line(f"not compared: {name}: {reason}", err=True)
    if not report.clean:
        raise click.exceptions.Exit(REFUSED)


@click.command()
@as_json
@command
def status(context: Context, *, as_json: bool) -> None:
    """Show the database, its position, and the progress of the read models.

    The position is the number of the last event. A read model that cannot continue is shown
    with the reason. So is what is late by more than 10 seconds: a read model that lacks an
    event, or the sweeper, if a delay, a ttl or a lease has been over for so long.
    """
    with context.reading(any_rows=True) as (system, connection):
        head = store.read_head(connection)
        stats = system.state_counts.stats(connection)
        paused = system.ledger_state.paused(connection)
        standing = system.lags()
        late = system.late(standing)
        time_ms = system.ledger.time_ms(connection)
    shown: dict[str, object] = {
        "database": system.database.shown_url,
        "position": head.position,
        "chain": head.chain.hex(),
        "last_event": output.moment(head.at_ms) if head.position else None,
        "database_time": output.moment(time_ms),
        "jobs_created": head.last_job_id,
        "jobs_now": sum(stats.counts.values()),
    }
    projections = {
        projection.name: "up to date, updated with each event" for projection in system.projections
    } | {each.name: str(each) for each in standing}
    since = {type_: output.moment(since_ms) for type_, since_ms in paused.items()}
    if as_json:
        told = {"paused": since, "projections": projections, "late": late_json(late)}
        output.json_line(json_out.encode(shown | told))
    else:
        pauses = [(f"{type_} is paused", f"since {at}") for type_, at in since.items()]
        # Outside the table, so that it is complete on a narrow terminal and can be copied.
        chain = shown.pop("chain")
        output.table(("name", "value"), [*shown.items(), *pauses, *projections.items()])
        click.echo(f"chain {chain}")
        print_late(late)
