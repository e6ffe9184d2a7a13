"""The benchmarks' command line: ``python -m benchmarks [TOPIC]... [--quick] [--part NAME]``."""

import signal
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from benchmarks import http, pages, queue, rebuild, replay, search
from benchmarks.processes import MissingProgramError
from benchmarks.report import Report, write_markdown

TOPICS = ("http", "pages", "queue", "rebuild", "replay", "search")
WIDTH = 150


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
            if topic == "http":
                return http.measure(
                    folder, rounds=1 if quick else 5, seconds=2 if quick else 3, tell=tell
                )
            if topic == "queue":
                return queue.measure(
                    folder,
                    queue.QUICK if quick else queue.FULL,
                    parts=parts or tuple(queue.PARTS),
                    tell=tell,
                )
            if topic == "pages":
                return pages.measure(
                    folder,
                    jobs=200_000 if quick else pages.JOBS,
                    rounds=5 if quick else 50,
                    tell=tell,
                )
            if topic == "rebuild":
                return rebuild.measure(folder, jobs=20_000 if quick else rebuild.JOBS, tell=tell)
            if topic == "search":
                return search.measure(
                    folder,
                    rounds=1 if quick else 5,
                    seconds=2 if quick else 3,
                    documents=20_000 if quick else search.DOCUMENTS,
                    tell=tell,
                )
            return replay.measure(
                folder, events=100_000 if quick else 1_000_000, rounds=1 if quick else 3, tell=tell
            )
        except MissingProgramError as missing:
            raise click.ClickException(str(missing)) from missing


if __name__ == "__main__":
    main()
