"""The examples: each runs as its first lines say, and leaves a ledger worth a look."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.documents import ROOT
from tests.integration.servers import DEADLINE_S, surroundings, tool

WORDS: Final = str(ROOT / "examples" / "words.py")


def run(folder: Path, *command: str) -> str:
    """Return what a command prints that ends well."""
    done = subprocess.run(
        command,
        env=surroundings(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    assert done.stderr == ""
    return done.stdout


def asked(folder: Path, *arguments: str) -> Any:
    """Return what the ledger in *folder* answers."""
    lines = run(folder, tool("ledger"), *arguments, "--json").splitlines()
    values = [json.loads(line) for line in lines]
    return values if arguments[0] == "events" else values[0]


def test_the_samples_make_a_full_ledger(tmp_path: Path) -> None:
    said = run(tmp_path, sys.executable, WORDS)
    jobs = asked(tmp_path, "jobs", "--oldest")
    made = [job["attempts"]["made"] for job in jobs]
    (summary,) = [job for job in jobs if job["type"] == "summary"]
    kinds = [event["kind"] for event in asked(tmp_path, "events", "--job", "5")]
    # How often, and between which lines, is a matter of the machine.
    flaky = [kind for kind in kinds if kind != "progressed"]

    assert [job["state"] for job in jobs] == ["complete"] * 11 + ["failed", "complete"]
    # The fifth and the tenth were tried again.
    assert made == [1, 1, 1, 1, 2, 1, 1, 1, 1, 2, 1, 1, 1]
    assert summary["result"] == {
        "files": 11,
        # Nine words a line, 20 lines in the first file, 40 in the second …
        "words": 9 * 20 * 66,
        "common": {"the": 2640, "quick": 1320, "brown": 1320, "fox": 1320, "jumps": 1320},
    }
    assert flaky == [
        "created",
        "started",
        "failed",
        "promoted",
        "started",
        "logged",
        "logged",
        "completed",
    ]
    assert "progressed" in kinds
    assert "job 12 failed: sample-latin-1.txt\n" in said
    assert "\n  ledger show 12 " in said
    assert asked(tmp_path, "verify")["differences"] == []


def test_the_files_of_a_folder_are_counted(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    (texts / "inner").mkdir(parents=True)
    (texts / "one.txt").write_text("one two two\n")
    (texts / "inner" / "two.md").write_text("three three, Three!\n")
    (texts / "picture.png").write_bytes(b"\x89PNG")

    said = run(tmp_path, sys.executable, WORDS, "texts")
    states = {job["data"].get("path"): job["state"] for job in asked(tmp_path, "jobs")}

    assert "6 words in 2 files; most frequent: three (3), two (2), one (1)\n" in said
    assert states == {
        "texts/one.txt": "complete",
        "texts/inner/two.md": "complete",
        None: "complete",
    }
