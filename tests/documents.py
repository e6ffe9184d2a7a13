"""Generation of parts of docs/ from the code, and functions that read its pages.

After a change, run ``python -m tests.documents``.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import click

from ledger.api.operations import OPERATIONS
from ledger.cli import COMMANDS, main
from ledger.processes.settings import SETTINGS, Settings
from ledger.rules.commands import (
    LARGEST_CONTENT,
    LARGEST_REPORT,
    LONGEST_ERROR,
    LONGEST_ERROR_LINE,
)
from ledger.rules.events import Erased, Moved, Removed, Reprioritized
from ledger.rules.job import LIVE_STATES, TRANSITIONS, State
from tests.contract.mended import MENDED

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
EXAMPLE: Final = ROOT / "tests" / "projection_package"


def pages() -> list[Path]:
    """Return the README and every page of docs/."""
    return [README, *sorted(DOCS.glob("*.md"))]


# --- the generated parts


def settings() -> str:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    defaults = Settings()
    for setting in SETTINGS:
        value = getattr(defaults, setting.field)
        shown = {True: "on", False: "off", (): ""}.get(value, value)
        rows.append(
            f"| `{setting.variable}` | {f'`{shown}`' if shown != '' else 'none'} "
            f"| {setting.meaning} Expects {setting.expected}. |"
        )
    return "\n".join(rows)


def commands() -> str:
    rows = ["| command | what it does |", "|---|---|"]
    for listed in COMMANDS:
        command = listed.load()
        # With the settings of `ledger`, because click caches the help option that it makes here.
        context = click.Context(command, info_name=command.name, **main.context_settings)
        usage = " ".join(command.collect_usage_pieces(context)).removeprefix("[OPTIONS]").strip()
        rows.append(f"| `ledger {f'{command.name} {usage}'.strip()}` | {_summary(command)} |")
    return "\n".join(rows)


def _summary(command: click.Command) -> str:
    return (command.help or "").split("\n\n", 1)[0].replace("\n", " ").strip()


def routes() -> str:
    rows = ["| route | what it does |", "|---|---|"]
    rows += [f"| `{each.method} {each.path}` | {each.summary} |" for each in OPERATIONS]
    return "\n".join(rows)


def parameters() -> str:
    """Return the parameters that are not in the path; all lists have the same."""
    rows = ["| route | parameter | meaning |", "|---|---|---|"]
    for each in OPERATIONS:
        is_longer_list = each.path.startswith("/jobs/{") and each.path != "/jobs/{range}"
        for parameter in () if is_longer_list else (*each.query, *each.headers):
            cells = (f"`{each.method} {each.path}`", f"`{parameter.name}`", parameter.description)
            rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def diagram() -> str:
    lines = ["```mermaid", "stateDiagram-v2"]
    names = {State.ABSENT: "[*]"}
    for state, exits in TRANSITIONS.items():
        for event, targets in exits.items():
            if event in {Moved, Removed, Erased, Reprioritized}:
                continue
            lines += [
                f"    {names.get(state, state)} --> {target}: {event.kind}"
                for target in (*LIVE_STATES, State.REMOVED)
                if target in targets
            ]
    return "\n".join([*lines, "```"])


def bounds() -> str:
    """Return the table of how long the texts of a job and of its handler may be."""
    raises = "`job.log` or `job.progress` raises `InvalidInput` in the function"
    left_out = "is cut in the middle, and says how many characters were left out"
    texts = (
        ("the data of a job", LARGEST_CONTENT, "`create` raises `InvalidInput`"),
        ("a result", LARGEST_REPORT, "fails the attempt"),
        ("a line of the log, the data of `job.progress`", LARGEST_REPORT, raises),
        ("the message and traceback of an exception", LONGEST_ERROR, left_out),
        ("the first line of that, which is in the log", LONGEST_ERROR_LINE, left_out),
    )
    rows = ["| text | characters at most | a longer one |", "|---|---|---|"]
    return "\n".join([*rows, *(f"| {text} | {most:,} | {then} |" for text, most, then in texts)])


def bounds_of_reports() -> str:
    """Return how long the texts of a worker over HTTP may be."""
    rows = ["| text | at most | a larger one |", "|---|---|---|"]
    body = f"`LEDGER_LARGEST_BODY_BYTES`, {Settings().largest_body_bytes:,} by default"
    each = "`result`, a line of the log, `data` of progress, `error`, each as JSON"
    rows += [
        f"| the body of a request | {body} | is refused with 413 |",
        f"| {each} | {LARGEST_REPORT:,} characters | is refused with 400 |",
    ]
    return "\n".join(rows)


def differences_from_kue() -> str:
    """Return the table that the contract tests compare with recorded answers."""
    rows = ["| Kue | Ledger | why | records |", "|---|---|---|---|"]
    for mend in MENDED:
        cells = (mend.kue, mend.ours, mend.why, mend.where.replace(" ", ", "))
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def durations() -> str:
    """Return the example of a projection, without the methods that read it."""
    module = (EXAMPLE / "ledger_durations" / "__init__.py").read_text()
    source = module[module.index("class Durations") : module.index("    def mean_ms")]
    return f"```python\n{source.rstrip()}\n```"


def entry_point() -> str:
    """Return how the example registers its projection."""
    project = (EXAMPLE / "pyproject.toml").read_text()
    return f"```toml\n{project[project.index('[project.entry-points') :].rstrip()}\n```"


Parts = Mapping[str, Callable[[], str]]

PARTS: Final[Mapping[Path, Parts]] = {
    DOCS / "settings.md": {"settings": settings},
    DOCS / "commands.md": {"commands": commands},
    DOCS / "http.md": {"routes": routes, "parameters": parameters},
    DOCS / "architecture.md": {"diagram": diagram},
    DOCS / "queue.md": {"bounds": bounds},
    DOCS / "workers.md": {"bounds": bounds_of_reports},
    DOCS / "kue-differences.md": {"differences": differences_from_kue},
    DOCS / "projections.md": {"durations": durations, "entry point": entry_point},
}


def written(text: str, parts: Parts) -> str:
    """Return the *text* of a page with its generated parts replaced by those from the code."""
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, number = pattern.subn(rf"\g<1>{_quoted(part())}\n\g<2>", text)
        if number != 1:
            raise SystemExit(f"expected one place for {name}, found {number}")
    return text


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\")


# --- reading pages


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the language and the text of each code block, in the order of the page."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def links(text: str) -> list[str]:
    """Return the targets of the links on a page."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", _without_blocks(text)))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", _without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    for path, parts in PARTS.items():
        path.write_text(written(path.read_text(), parts))
