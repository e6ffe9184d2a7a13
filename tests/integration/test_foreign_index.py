"""A search index that another user made, or could have changed, is not loaded, and says why."""

import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import pytest
from click.testing import Result
from whoosh.fields import Schema
from whoosh.filedb.filestore import FileStorage
from whoosh.index import TOC

from ledger.database.own_files import NotOurs
from ledger.errors import Unavailable
from ledger.log import store
from ledger.processes.composition import System
from ledger.projections.follower import catch_up
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.search.engine import Damaged
from ledger.projections.search.whoosh import own_directory, segment_file, table_of_contents
from ledger.projections.search.whoosh.engine import WhooshEngine
from ledger.projections.search.whoosh.folders import CURRENT
from ledger.projections.search.whoosh.index import Contents
from ledger.projections.search.whoosh.newest import newest
from ledger.projections.search.whoosh.segment_file import SegmentFile, Source
from ledger.projections.search.whoosh.table_of_contents import START, Checkpoint, Segment, Toc
from ledger.rules.commands import Create, Remove
from tests.builders import carry_out, open_system, silently
from tests.integration.servers import DEADLINE_S, Server, surroundings, tool, wait_until
from tests.integration.shell import Shell, in_time
from tests.integration.strangers import ANOTHER_USER, KINDS, put, seen


@pytest.fixture
def path(tmp_path: Path, sqlite_template: Path) -> Path:
    """Return the file of a ledger."""
    return Path(shutil.copy(sqlite_template, tmp_path / "ledger.db"))


@pytest.fixture
def home(path: Path) -> Path:
    """Return where its index lies."""
    return path.with_name("ledger.db-search")


@pytest.fixture
def ledger(path: Path) -> Iterator[System]:
    """Yield a ledger with two jobs in its index."""
    with closing(open_system(f"sqlite:///{path}")) as system:
        carry_out(system, Create(type="t", data='"avi"'), Create(type="t", data='"avi"'))
        system.search.find("avi")
        yield system


@pytest.fixture
def another(ledger: System, path: Path) -> Iterator[System]:
    """Yield the same ledger as another process has it."""
    with closing(open_system(f"sqlite:///{path}")) as system:
        yield system


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make *path* another user's; who may not do that is another user from now on."""
    if os.geteuid() == 0:
        os.chown(path, ANOTHER_USER, ANOTHER_USER)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: ANOTHER_USER)


def run(path: Path, *arguments: str) -> Result:
    """Return how a command ended, which could wait for a FIFO for ever."""
    return in_time(lambda: Shell(f"sqlite:///{path}")(*arguments))


def run_alone(path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Return how a command ended in a process of its own, whose warnings are shown."""
    return subprocess.run(
        [tool("ledger"), "--database", f"sqlite:///{path}", *arguments],
        env=surroundings(path.parent),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


class Malicious:
    """What runs code when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._canary), "w")


def pickles(folder: Path, canary: Path, *, generation: int = 9) -> None:
    """Put a table of contents as Whoosh writes them into a directory."""
    toc = TOC(Schema(), [Malicious(canary)], generation)
    toc.write(FileStorage(str(folder)), "MAIN")


# --- the directory of the indexes


def _another_users(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    give_away(home, monkeypatch)
    return r"it belongs to user \d+, not to \d+"


def _writable_for_all(home: Path, _: pytest.MonkeyPatch) -> str:
    home.chmod(0o777)
    return r"other users can write to it \(mode 0777\)"


def _writable_for_a_group(home: Path, _: pytest.MonkeyPatch) -> str:
    home.chmod(0o720)
    return r"other users can write to it \(mode 0720\)"


def _without_a_marker(home: Path, _: pytest.MonkeyPatch) -> str:
    (home / own_directory.MARKER).unlink()
    return r"it contains files that are not Ledger's, such as 2\.1-[0-9a-f]{16}"


def _with_another_marker(home: Path, _: pytest.MonkeyPatch) -> str:
    (home / own_directory.MARKER).write_text("x")
    return r"it contains files that are not Ledger's, such as CACHEDIR\.TAG"


def _a_link(home: Path, _: pytest.MonkeyPatch) -> str:
    home.rename(home.with_name("elsewhere"))
    home.symlink_to("elsewhere")
    return "it is a symbolic link, not a directory"


Spoil = Callable[[Path, pytest.MonkeyPatch], str]
SPOILED: Final = (
    _another_users,
    _writable_for_all,
    _writable_for_a_group,
    _without_a_marker,
    _with_another_marker,
    _a_link,
)


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_directory_that_is_not_ours_alone_is_not_used(
    ledger: System,
    another: System,
    home: Path,
    spoil: Spoil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    why = f"cannot use {home}: {spoil(home, monkeypatch)}; "
    before = seen(home, *home.resolve().iterdir())
    engine = another.search.engine
    assert isinstance(engine, WhooshEngine)

    acts: tuple[Callable[[], object], ...] = (
        lambda: another.search.find("avi"),
        lambda: rebuild(another.database, [engine], silently),
        lambda: catch_up(another.database, engine),
        engine.leadership,
        engine.replacement_checkpoint,
        engine.drop_replacement,
    )
    for act in acts:
        with pytest.raises(NotOurs, match=why):
            act()
    stands = {each.name: each.stopped for each in another.lags()}

    assert re.match(why, stands["search"] or "")
    assert stands["activity"] is None
    assert seen(home, *home.resolve().iterdir()) == before


@pytest.mark.parametrize("spoil", SPOILED)
def test_commands_say_why_a_directory_is_not_used(
    ledger: System, path: Path, home: Path, spoil: Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = f"cannot use {home}: {spoil(home, monkeypatch)}; "

    status = run(path, "status", "--json")
    search = run(path, "search", "avi")
    rebuilt = run(path, "rebuild", "search")

    assert status.exit_code == 0
    assert re.match(f"stopped: {why}", json.loads(status.stdout)["projections"]["search"])
    for refused in (search, rebuilt):
        assert refused.exit_code == 3
        assert re.search(why, refused.stderr)
        assert isinstance(refused.exception, SystemExit)
    assert run(path, "show", "1").exit_code == 0
    assert run(path, "verify").exit_code == 0


def test_a_server_beside_a_strangers_directory_serves_all_but_searches(
    path: Path, home: Path, tmp_path: Path
) -> None:
    before = put("tree", home)
    why = f"cannot use {home}: it contains files that are not Ledger's, such as "
    with Server(f"sqlite:///{path}", tmp_path) as server:
        job = server.create()
        search = server.ask("GET", "/job/search?q=avi")
        assert search.status == 503
        assert search.json["error"].startswith(why)
        assert server.ask("GET", f"/job/{job}").status == 200

        def activity() -> bool:
            return bool(run(path, "status", "--json").stdout.count("up to date, at position 1"))

        wait_until(activity, "activity is followed")
        stopped = server.ask("GET", "/health/ready").json["stopped"]
        assert stopped["search"].startswith(why)
        assert list(stopped) == ["search"]

    assert server.output.count(why) == 1
    assert "Traceback" not in server.output
    assert seen(*before) == before


# --- one index


def _others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if os.geteuid():
        # Nobody but root can make it so, and then it is the directory above as well.
        return _writable_for_all(folder, monkeypatch)
    return _another_users(folder, monkeypatch)


def _unmarked(folder: Path, _: pytest.MonkeyPatch) -> str:
    (folder / own_directory.MARKER).unlink()
    return r"it has no CACHEDIR\.TAG of Ledger's"


def _linked(folder: Path, _: pytest.MonkeyPatch) -> str:
    folder.rename(folder.parent.with_name("elsewhere"))
    folder.symlink_to("../elsewhere")
    return "it is a symbolic link, not a directory"


@pytest.mark.parametrize("spoil", [_others, _writable_for_all, _unmarked, _linked])
def test_an_index_that_is_not_ours_alone_is_left_and_built_anew_beside_it(
    ledger: System,
    another: System,
    path: Path,
    home: Path,
    spoil: Spoil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = (home / CURRENT).resolve()
    why = f"cannot use {folder}: {spoil(folder, monkeypatch)}"
    before = seen(folder, *folder.resolve().iterdir())

    with pytest.raises(Unavailable, match=f"is being rebuilt from the ledger: {why}"):
        another.search.engine.reached()  # type: ignore[union-attr]  # it is on
    status = json.loads(run(path, "status", "--json").stdout)["projections"]["search"]
    search = run_alone(path, "search", "avi", "--json")

    assert re.match(f"stopped: the search index is damaged .* {why}", status)
    assert json.loads(search.stdout) == ["2", "1"]
    assert re.search(why, search.stderr)
    assert another.search.find("avi").job_ids == [2, 1]
    assert (home / CURRENT).resolve() != folder
    assert seen(folder, *folder.resolve().iterdir()) == before


# These are as our own ones are, but for what they hold.
_DAMAGED_ONLY: Final = {"file", "read-only-file", "closed-file", "file-open-to-all"} | (
    {"file-of-another-user"} if os.geteuid() else set()
)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - _DAMAGED_ONLY))
@pytest.mark.parametrize("pattern", ["_MAIN_*.toc", "MAIN_*.seg", "MAIN_WRITELOCK", "CACHEDIR.TAG"])
def test_files_of_an_index_are_opened_only_if_they_are_ours(
    ledger: System, another: System, home: Path, kind: str, pattern: str
) -> None:
    (file,) = (home / CURRENT).resolve().glob(pattern)
    file.unlink()
    before = put(kind, file)
    engine = another.search.engine
    assert isinstance(engine, WhooshEngine)

    said = []
    carry_out(another, Create(type="t", data='"film"'))
    for act in (engine.reached, lambda: catch_up(another.database, engine)):
        try:
            act()
        except Unavailable as error:
            said.append(str(error))

    assert any(str(file) in each or str(file.parent) in each for each in said)
    assert seen(*before) == before
    if pattern != "MAIN_WRITELOCK":
        # All but that one can be done without: another index takes its place.
        assert another.search.find("avi").job_ids == [2, 1]


# --- pickles


def test_no_pickle_of_an_old_index_is_loaded(path: Path, home: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    folder = home / "1.1-0123456789abcdef"
    folder.mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    pickles(folder, canary)
    (home / CURRENT).symlink_to(folder.name)
    before = seen(home)

    for command in (["status"], ["search", "avi"], ["follow", "--once", "search"]):
        assert "such as 1.1-0123456789abcdef" in _said(path, command)

    assert not canary.exists()
    assert seen(home) == before


def _said(path: Path, command: list[str]) -> str:
    done = run(path, *command)
    return " ".join((done.stdout + done.stderr).split())


def test_no_pickle_in_an_index_of_ours_is_loaded(
    ledger: System, path: Path, home: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    folder = (home / CURRENT).resolve()
    pickles(folder, canary)
    for file in folder.glob("*.seg"):
        file.write_bytes(pickle.dumps(Malicious(canary)))

    assert "the table of contents cannot be read" in _said(path, ["status"])
    assert json.loads(run(path, "search", "avi", "--json").stdout) == ["2", "1"]

    assert not canary.exists()


def test_nothing_is_pickled(ledger: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a pickle")

    for name in ("loads", "load", "dumps", "dump", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, fail)
    engine = ledger.search.engine
    assert isinstance(engine, WhooshEngine)
    for number in range(20):
        carry_out(ledger, Create(type="t", data=f'"film {number}"'))
        assert len(ledger.search.find("film").job_ids) == number + 1
    carry_out(ledger, *(Remove(job_id=number) for number in range(3, 9)))
    rebuild(ledger.database, [engine], silently)

    assert len(ledger.search.find("film").job_ids) == 14
    assert engine.reached() == 28


# --- hostile numbers


def rewritten(toc: bytes, **fields: object) -> bytes:
    """Return a table of contents with other fields."""
    return msgspec.json.encode(msgspec.json.decode(toc) | fields)


def toc_of(*segments: Segment) -> bytes:
    return table_of_contents.encode(
        Toc(generation=1, checkpoint=Checkpoint(7, b"x" * 32), segments=list(segments))
    )


def entry(**fields: object) -> dict[str, object]:
    return {"id": "0" * 16, "documents": 9, "deleted": "", "deleted_count": 0} | fields


@pytest.mark.parametrize(
    "fields",
    [
        {"layout": 1},
        {"layout": "2"},
        {"generation": 2},
        {"generation": 2**63},
        {"position": -1},
        {"position": 2**64},
        {"position": 1.5},
        {"chain": "zz"},
        {"chain": "abc"},
        {"chain": "ab\n"},
        {"segments": None},
        {"segments": [entry(id="../../../../etc/passwd")]},
        {"segments": [entry(id="0" * 16 + "\n")]},
        {"segments": [entry(id="0" * 15)]},
        {"segments": [entry(documents=2**32)]},
        {"segments": [entry(documents=-1)]},
        {"segments": [entry(deleted="/w==", deleted_count=8)]},
        {"segments": [entry(deleted="AQA=", deleted_count=2)]},
        {"segments": [entry(deleted="AP8=", deleted_count=8)]},
        {"segments": [entry(deleted="?", deleted_count=0)]},
        {"segments": [entry(), entry()]},
        {"segments": [entry()] * 10_001},
        {"other": 1},
    ],
)
def test_a_table_of_contents_is_read_strictly(fields: dict[str, object]) -> None:
    with pytest.raises(Damaged):
        table_of_contents.decode(rewritten(toc_of(), **fields), 1)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\xff", b"null", bytes(99)])
def test_what_is_no_table_of_contents_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        table_of_contents.decode(data, 1)


def test_a_table_of_contents_says_again_what_was_written() -> None:
    segment = Segment()
    segment.set_doc_count(9)
    segment.delete([0, 8])

    toc = table_of_contents.decode(toc_of(segment, Segment()), 1)

    assert (toc.generation, toc.checkpoint) == (1, Checkpoint(7, b"x" * 32))
    assert toc.segments[0].entry() == segment.entry()
    assert toc.segments[0].deleted_docs() == {0, 8}


_HEADER: Final = struct.Struct("=8sQQQQQ")


def hostile(
    path: Path, *, postings: list[int], starts: list[int], places: list[int], letters: bytes
) -> None:
    """Write a segment of two documents whose checksum is right, whatever it says."""
    body = b"".join(
        (
            array("Q", [1, 2]).tobytes(),
            *(array("I", numbers).tobytes() for numbers in (postings, starts, places)),
            letters,
        )
    )
    magic = b"ledger-1" if sys.byteorder == "little" else b"1-regdel"
    words = len(starts) - 1
    header = _HEADER.pack(magic, 2, len(postings), words, len(letters), zlib.crc32(body))
    path.write_bytes(header + body)


_FAR: Final = 2**32 - 1


@pytest.mark.parametrize(
    "numbers",
    [
        {"postings": [0, _FAR], "starts": [0, 2], "places": [0, 3]},
        {"postings": [_FAR, _FAR], "starts": [0, 2], "places": [0, 3]},
        {"postings": [0, 1], "starts": [0, _FAR], "places": [0, 3]},
        {"postings": [0, 1], "starts": [_FAR, 0], "places": [0, 3]},
        {"postings": [0, 1], "starts": [_FAR, _FAR], "places": [0, 3]},
        {"postings": [1, 0], "starts": [0, 2], "places": [0, 3]},
        {"postings": [0, 1], "starts": [0, 2], "places": [_FAR, 0]},
        {"postings": [0, 1], "starts": [0, 2], "places": [0, _FAR]},
        {"postings": [], "starts": [0], "places": [0]},
    ],
)
def test_numbers_that_lead_nowhere_are_damage_or_find_nothing(
    tmp_path: Path, numbers: dict[str, list[int]]
) -> None:
    hostile(tmp_path / "segment", letters=b"avi", **numbers)
    file = SegmentFile(tmp_path / "segment")
    segment = Segment()
    segment.set_doc_count(2)
    for deleted in ((), (0,)):
        segment.delete(deleted)
        with suppress(Damaged):
            found = newest(Contents(1, START, [segment], [file]), ["avi"], limit=9, offset=0)
            assert set(found) <= {1, 2}
        joined = tmp_path / f"joined{deleted}"
        with suppress(Damaged):
            segment_file.join(lambda: joined.open("wb"), [Source(file, segment.kept())] * 2)  # noqa: B023 - at once
            SegmentFile(joined)


def test_an_index_with_a_number_that_leads_nowhere_is_built_anew(
    ledger: System, another: System, home: Path
) -> None:
    (file,) = (home / CURRENT).resolve().glob("*.seg")
    file.unlink()
    hostile(file, postings=[0, _FAR], starts=[0, 2], places=[0, 3], letters=b"avi")
    reader = WhooshEngine(another.database, home)
    asked = partial(reader.search, ["avi"], head=head(another), limit=9, offset=0)

    with pytest.raises(Unavailable, match="a segment refers to documents that it does not have"):
        asked()
    catch_up(another.database, WhooshEngine(another.database, home))

    assert asked() == [2, 1]


def head(system: System) -> store.Head:
    with system.database.read() as connection:
        return store.read_head(connection)
