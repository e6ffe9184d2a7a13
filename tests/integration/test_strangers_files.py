"""Nothing is removed, written to or loaded that Ledger did not make, whatever its name."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ledger.commands import Create
from ledger.composition import System
from ledger.errors import Unavailable
from ledger.own_files import NotOurs
from tests.builders import carry_out, open_system
from tests.integration.strangers import KINDS, put, seen

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def path(tmp_path: Path, sqlite_template: Path) -> Path:
    """Return the file of a ledger, alone in its directory."""
    (tmp_path / "ledger").mkdir()
    return Path(shutil.copy(sqlite_template, tmp_path / "ledger" / "ledger.db"))


@pytest.fixture
def ledger(path: Path) -> Iterator[System]:
    """Give the ledger in the file."""
    with closing(open_system(f"sqlite:///{path}")) as system:
        yield system


# --- the files on which processes queue


@each_kind
@pytest.mark.parametrize("role", ["sweeper", "rebuild", "followers-starter", "follower-activity"])
def test_a_role_is_not_taken_on_a_strangers_file(
    ledger: System, path: Path, kind: str, role: str
) -> None:
    lock = path.with_name(f"ledger.db-{role}")
    before = put(kind, lock)

    with pytest.raises(Unavailable) as refused:
        ledger.database.leadership(role).held()

    assert str(lock) in str(refused.value)
    assert seen(*before) == before


@each_kind
def test_nobody_queues_on_a_strangers_file(ledger: System, path: Path, kind: str) -> None:
    lock = path.with_name("ledger.db-writer")
    before = put(kind, lock)

    with pytest.raises(Unavailable) as refused:
        carry_out(ledger, Create(type="t"))

    assert str(lock) in str(refused.value)
    assert seen(*before) == before
    # With it out of the way, all goes on.
    shutil.move(lock, path.with_name("moved"))
    assert carry_out(ledger, Create(type="t"))[0].job_id == 1


def test_a_refusal_says_what_was_found_and_what_to_do(ledger: System, path: Path) -> None:
    said = []
    for kind in ("file", "fifo", "link-to-nothing", "hard-link"):
        lock = path.with_name(f"ledger.db-{kind}")
        put(kind, lock)
        with pytest.raises(NotOurs) as refused:
            ledger.database.leadership(kind).held()
        said.append(str(refused.value).removeprefix(str(lock)))

    advice = "; move it away: processes queue on this file"
    assert said == [
        f" is not Ledger's: it is a file of 23 bytes, and no lock{advice}",
        f" is not Ledger's: it is a FIFO{advice}",
        f" is not Ledger's: it is a symbolic link{advice}",
        f" is not Ledger's: it is a hard link, one of 2 names of a file{advice}",
    ]


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_file_and_one_that_was_touched_are_locks(
    ledger: System, path: Path, content: bytes
) -> None:
    path.with_name("ledger.db-writer").write_bytes(content)

    assert carry_out(ledger, Create(type="t"))[0].job_id == 1

