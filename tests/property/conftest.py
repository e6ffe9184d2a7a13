"""Give the state machines where their examples run, on each engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.property.arenas import Arena, PostgresArena, SqliteArena


@pytest.fixture
def arena(database_url: str, tmp_path: Path) -> Iterator[Arena]:
    """Give each engine its way to a fresh database."""
    if database_url.startswith("sqlite"):
        yield SqliteArena(tmp_path)
        return
    postgres = PostgresArena(database_url, tmp_path / "search")
    yield postgres
    postgres.close()
