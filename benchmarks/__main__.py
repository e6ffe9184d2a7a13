"""The benchmarks' command line: ``python -m benchmarks [TOPIC]... [--quick] [--part NAME]``."""

import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from benchmarks import contention, http, pages, queue, rebuild, replay, search
from benchmarks.processes import MissingProgramError
from benchmarks.report import Report, write_markdown

TOPICS = ("contention", "http", "pages", "queue", "rebuild", "replay", "search")
WIDTH = 150

Tell = Callable[[str], None]


@click.command()
@click.argument("topics", nargs=-1, type=click.Choice(TOPICS))
@click.option("--quick", is_flag=True, help="One short run of each: does it work at all?")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(list(queue.PARTS)),
    help="Of the topic queue only this; may be given more than once.",
)
@click.option(
    "--markdown", type=click.Path(path_type=Path), help="Write the report to this file as well."
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where to keep the databases meanwhile: on the disk to be measured.",
)
def main(
    topics: tuple[str, ...],
    *,
    quick: bool,
    parts: tuple[str, ...],
    markdown: Path | None,
    directory: Path | None,
) -> None:
    """Run the benchmarks TOPICS, by default all, and print a table for each."""
    # An exit on SIGTERM too runs the ``finally`` blocks that end the started processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console()
    # A pipe has no width, and the default of 80 columns is too narrow for the table.
    console.width = max(console.width, WIDTH)
    reports = []
    with tempfile.TemporaryDirectory(prefix="ledger-bench-", dir=directory) as scratch:
        for topic in topics or TOPICS:
            folder = Path(scratch) / topic
            folder.mkdir()
            report = _measure(topic, folder, quick=quick, parts=parts, console=console)
            report.show(console)
            reports.append(report)
    if markdown is not None:
        write_markdown(reports, markdown)


def _measure(
    topic: str, folder: Path, *, quick: bool, parts: tuple[str, ...], console: Console
) -> Report:
    with console.status(topic) as status:

        def tell(what: str) -> None:
            status.update(f"{topic}: {what}")
            if not console.is_terminal:
                click.echo(f"{topic}: {what}", err=True)

        try:
            return _run(topic, folder, quick=quick, parts=parts, tell=tell)
        except MissingProgramError as missing:
            raise click.ClickException(str(missing)) from missing


def _run(topic: str, folder: Path, *, quick: bool, parts: tuple[str, ...], tell: Tell) -> Report:
    rounds, seconds = (1, 2) if quick else (5, 3)
    if topic == "contention":
        scale = contention.QUICK if quick else contention.FULL
        report = contention.measure(folder, scale, tell=tell)
    elif topic == "http":
        report = http.measure(folder, rounds=rounds, seconds=seconds, tell=tell)
    elif topic == "queue":
        amounts = queue.QUICK if quick else queue.FULL
        report = queue.measure(folder, amounts, parts=parts or tuple(queue.PARTS), tell=tell)
    elif topic == "pages":
        jobs, times = (200_000, 5) if quick else (pages.JOBS, 50)
        report = pages.measure(folder, jobs=jobs, rounds=times, tell=tell)
    elif topic == "rebuild":
        report = rebuild.measure(folder, jobs=20_000 if quick else rebuild.JOBS, tell=tell)
    elif topic == "search":
        documents = 20_000 if quick else search.DOCUMENTS
        report = search.measure(
            folder, rounds=rounds, seconds=seconds, documents=documents, tell=tell
        )
    else:
        events, passes = (100_000, 1) if quick else (1_000_000, 3)
        report = replay.measure(folder, events=events, rounds=passes, tell=tell)
    return report


if __name__ == "__main__":
    main()
