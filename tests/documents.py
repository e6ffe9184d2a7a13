"""Write the README's tables, its diagram, and docs/kue.md from the code.

Run it after a change: ``python -m tests.documents``.
"""

import re
from pathlib import Path

import click

from ledger.api.operations import OPERATIONS
from ledger.cli import COMMANDS, main
from ledger.processes.settings import SETTINGS, Settings
from ledger.rules.events import Erased, Moved, Removed, Reprioritized
from ledger.rules.job import LIVE_STATES, TRANSITIONS, State
from tests.contract.mended import MENDED

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
KUE = ROOT / "docs" / "kue.md"


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
    for command in COMMANDS:
        # As below `ledger`: click remembers the help option it makes here.
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


PARTS = {"settings": settings, "commands": commands, "routes": routes, "diagram": diagram}


def written(text: str) -> str:
    """Return the README's *text* with its parts as the code says they are."""
    for name, part in PARTS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, number = pattern.subn(rf"\g<1>{_quoted(part())}\n\g<2>", text)
        if number != 1:
            raise SystemExit(f"README.md: expected one place for {name}, found {number}")
    return text


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\")


def differences_from_kue() -> str:
    """Return docs/kue.md: the table that the contract tests compare with real answers."""
    rows = "\n".join(
        f"| {mend.where.replace(' ', ', ')} | {_cell(mend.kue)} | {_cell(mend.ours)} "
        f"| {_cell(mend.why)} |"
        for mend in MENDED
    )
    return KUE_TEXT + rows + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


KUE_TEXT = """# Where Ledger answers otherwise than Kue

740 answers of Kue 0.11.6 were recorded (`tests/contract/transcripts.jsonl`). Ledger's must
agree with each in status, media type, keys, their order and their types, but for what this
table lists. The tests compare both: an answer that differs and is not here fails, and so
does a row that no longer makes a difference.

| records | Kue | Ledger | why |
|---|---|---|---|
"""

if __name__ == "__main__":
    README.write_text(written(README.read_text()))
    KUE.write_text(differences_from_kue())
