"""Fixtures of the state machines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.property.arenas import Arena, PostgresArena, SqliteArena


@pytest.fixture
def arena(database_url: str, tmp_path: Path) -> Iterator[Arena]:
    """Yield a source of fresh databases, on each engine in turn."""
    if database_url.startswith("sqlite"):
        yield SqliteArena(tmp_path)
        return
    postgres = PostgresArena(database_url, tmp_path / "search")
    yield postgres
    postgres.close()
