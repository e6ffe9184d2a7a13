"""Every search engine finds what plain Python finds, whatever happened to the ledger."""

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger.processes.composition import compose
from ledger.processes.settings import SearchOn, Settings
from ledger.projections.follower import catch_up
from ledger.rules.commands import Command, Create, Erase, Remove
from tests.property.arenas import Arena
from tests.search_reference import Indexed, matches

ENGINES: Final[tuple[SearchOn, ...]] = ("whoosh", "sql")

# Few words, so that queries find something, in all the spellings that are one word.
PIECES = """
    welcome Welcome WELCOMED email emails tj tj@learnboost.com learnboost the who not or
    résumé resume RÉSUMÉ straße STRASSE Łódź ﬁne x̂ 12 12.5 -7 1e5 true null user_id7 ABC
    ａｂｃ 张三 三张 欢迎张三 欢迎 張 ようこそ ﾖｳｺｿ 환영 합니다 ภาษาไทย Ёлка हिन्दी ΆΛΦΑ Ⅳ 々 〇 ㍿
    * ( ) " ' & | ! : ~ ^ ? [ ] { } \\ % _ - AND OR NEAR NOT words: \u200b
"""
pieces = st.sampled_from(PIECES.split())
texts = st.one_of(
    st.lists(pieces, max_size=6).map(" ".join),
    st.lists(pieces, max_size=3).map("".join),
    # What JSON says and PostgreSQL holds.
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
)
keys = st.sampled_from(["to", "title", "a", "b", "a.b"])
values = st.recursive(
    st.one_of(texts, texts, st.integers(), st.booleans(), st.none(), st.floats(-1e9, 1e9)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
search_keys = st.none() | st.lists(st.sampled_from(["to", "a", "a.b", "a.a", "none"]), max_size=2)


class Happens(NamedTuple):
    """The next step.

    Attributes:
        what: create, remove, erase, catch up, rebuild, begin a rebuild, drop it, restart.
        job: Which of the jobs, by a number that is taken modulo theirs.
    """

    what: str
    job: int = 0
    data: Any = None
    keys: Sequence[str] | None = None


happenings = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.just(0), values, search_keys),
        st.tuples(st.just("create"), st.just(0), values),
        st.tuples(st.sampled_from(["remove", "erase"]), st.integers(0, 99)),
        st.tuples(
            st.sampled_from(
                ["catch up", "catch up", "rebuild", "begin a rebuild", "drop it", "restart"]
            )
        ),
    ).map(lambda happens: Happens(*happens)),
    max_size=14,
)


class Run:
    """A ledger, its index, and a plain list of its jobs."""

    def __init__(self, url: str, search: SearchOn, folder: Path) -> None:
        self._settings = Settings(
            database_url=url,
            sqlite_synchronous="OFF",
            search=search,
            search_directory=str(folder),
        )
        self.system = compose(self._settings)
        self.jobs: dict[int, Indexed] = {}

    def let(self, happens: Happens) -> None:
        engine = self.system.search.engine
        assert engine is not None
        match happens.what:
            case "create":
                data, keys = json.dumps(happens.data, ensure_ascii=False), happens.keys
                job_id = self._do(
                    Create(type="t", data=data, search_keys=None if keys is None else tuple(keys))
                )
                self.jobs[job_id] = Indexed(data, keys)
            case "remove" if self.jobs:
                job_id = self._pick(happens)
                self._do(Remove(job_id=job_id))
                del self.jobs[job_id]
            case "erase" if self.jobs:
                job_id = self._pick(happens)
                self._do(Erase(job_id=job_id))
                self.jobs[job_id] = Indexed(None, None)
            case "catch up":
                catch_up(self.system.database, engine, batch=3)
            case "begin a rebuild":
                catch_up(self.system.database, engine.replacement(), through=2)
            case "rebuild":
                catch_up(self.system.database, engine.replacement(), batch=2)
                engine.swap()
            case "drop it":
                engine.drop_replacement()
            case "restart":
                self.system.close()
                self.system = compose(self._settings)

    def compare(self, query: str) -> None:
        """Require that the engine finds what plain Python finds, also a part of it."""
        expected = matches(self.jobs, query)

        assert list(self.system.search.find(query, limit=100).job_ids) == expected, query
        assert list(self.system.search.find(query, limit=2, offset=1).job_ids) == (expected[1:3]), (
            query
        )

    def _pick(self, happens: Happens) -> int:
        return sorted(self.jobs)[happens.job % len(self.jobs)]

    def _do(self, command: Command) -> int:
        return self.system.ledger.execute(command, actor="test").job_id


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> SearchOn:
    """Give each kind of engine in turn."""
    kind: SearchOn = request.param
    return kind


def everything(data: Sequence[Any]) -> list[Happens]:
    return [Happens("create", data=one) for one in data]


def test_every_engine_finds_what_plain_python_finds(
    arena: Arena, engine: SearchOn, tmp_path: Path
) -> None:
    compare_with_plain_python(arena, engine, tmp_path, examples=15)


def compare_with_plain_python(
    arena: Arena, engine: SearchOn, folder: Path, *, examples: int
) -> None:
    """Compare what an engine finds with what plain Python finds; tests/soak does it for longer."""
    numbers = count()

    @settings(max_examples=examples)
    @given(before=happenings, after=happenings, queries=st.lists(texts, min_size=1, max_size=8))
    @example(
        before=[*everything(["welcome tj", "the who", {"a": "张三"}]), Happens("begin a rebuild")],
        after=[Happens("erase", 0), Happens("remove", 1), Happens("rebuild")],
        queries=["welcome", "who", "张三", ""],
    )
    def compare(before: list[Happens], after: list[Happens], queries: list[str]) -> None:
        run = Run(arena.fresh(), engine, folder / f"search-{next(numbers)}")
        try:
            for some in (before, after):
                for happens in some:
                    run.let(happens)
                for query in queries:
                    run.compare(query)
        finally:
            # PostgreSQL's tables are used again, and only the known ones are emptied.
            run.let(Happens("drop it"))
            run.system.close()

    compare()
