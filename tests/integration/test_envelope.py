"""The envelope that followers may ask for: from it alone the chain can be computed."""

from collections.abc import Iterator, Sequence
from typing import cast

import pytest
from sqlalchemy import Column, Connection, LargeBinary, insert, text

from ledger.log import hash_chain, store
from ledger.log.history import read_recorded
from ledger.log.recorded import AnyChange, Change, LedgerChange, Recorded
from ledger.log.schema import BIGINT
from ledger.processes.composition import System
from ledger.projections.follower import catch_up
from ledger.projections.rebuild.rebuild import rebuild
from ledger.projections.table_follower import TableFollower
from ledger.projections.verify.verify import verify
from ledger.rules.commands import Create, Erase, Log, Pause, Start
from tests.builders import START_MS, carry_out, rows, silently
from tests.followers import Remembering


class Leaves(TableFollower):
    """The leaf of each event."""

    name = "leaves"
    wants_envelope = True

    def __init__(
        self, database: object, *, shadow: bool = False, replacement: bool = False
    ) -> None:
        super().__init__(database, shadow=shadow, replacement=replacement)  # type: ignore[arg-type]  # a test's
        self._table = self._define(
            "leaves",
            Column("position", BIGINT, primary_key=True, autoincrement=False),
            Column("leaf", LargeBinary, nullable=False),
        )

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        self._keep(tx, changes)

    def apply_ledger(self, tx: Connection, changes: Sequence[LedgerChange]) -> None:
        self._keep(tx, changes)

    def _keep(self, tx: Connection, changes: Sequence[AnyChange]) -> None:
        tx.execute(
            insert(self._table),
            [
                {"position": change.recorded.position, "leaf": change.recorded.leaf}
                for change in changes
            ],
        )


class Careless(Leaves):
    """The same, from a list that is not left as it came."""

    def apply(self, tx: Connection, changes: Sequence[Change]) -> None:
        super().apply(tx, changes)
        cast("list[Change]", changes).reverse()


@pytest.fixture
def leaves(system: System) -> Iterator[Leaves]:
    carry_out(
        system,
        Create(type="email", data='{"to":"tj","é":1.0}', unique="k"),
        Create(type="sms"),
        Start(job_id=1, worker="w"),
        Log(job_id=1, attempt=1, line='"line"'),
        Pause(type="email"),
        Erase(job_id=1),
    )
    follower = Leaves(system.database)
    follower.create()
    yield follower
    with system.database.write() as tx:
        follower.metadata.drop_all(tx)


def chained(system: System) -> bytes:
    link = hash_chain.GENESIS
    for row in rows(system, "SELECT leaf FROM leaves ORDER BY position"):
        link = hash_chain.link(link, bytes(row["leaf"]))
    return link


def head(system: System) -> bytes:
    with system.database.read() as connection:
        return bytes(store.read_head(connection).chain)


def test_the_chain_can_be_computed_from_what_a_follower_is_told(
    system: System, leaves: Leaves
) -> None:
    catch_up(system.database, leaves, batch=2)
    followed = chained(system)
    rebuild(system.database, [leaves], silently)

    assert followed == head(system)
    assert chained(system) == head(system)


def test_one_that_alters_the_list_it_is_told_changes_nothing_else(
    system: System, leaves: Leaves
) -> None:
    careless = Careless(system.database)
    catch_up(system.database, careless, batch=4)
    followed = chained(system)
    rebuild(system.database, [careless], silently)

    assert followed == head(system)
    assert chained(system) == head(system)


def test_verify_gives_the_envelope_to_what_it_compares(system: System, leaves: Leaves) -> None:
    catch_up(system.database, leaves)
    compared = [(leaves, leaves.twin(shadow=True))]
    followed = verify(system.database, compared, silently, tables=())
    with system.database.write() as tx:
        tx.execute(text("UPDATE leaves SET leaf = :other WHERE position = 3"), {"other": b"other"})
    altered = verify(system.database, compared, silently, tables=())

    assert (followed.clean, followed.projections) == (True, ["leaves"])
    assert not altered.clean


def test_the_envelope_comes_with_content_too(system: System) -> None:
    carry_out(system, Create(type="email", data='{"to": "tj"}'))
    with system.database.read() as connection:
        ((recorded,),) = read_recorded(connection, through=1, content=True, envelope=True)
        (envelope,) = store.read_stream(connection, 1)

    assert recorded.event.content == '{"to": "tj"}'
    assert recorded.stored == (1, '{"type":"email"}', envelope.digest)
    assert hash_chain.link(hash_chain.GENESIS, recorded.leaf) == head(system)


def test_one_that_does_not_ask_for_the_envelope_is_told_what_to_do(system: System) -> None:
    carry_out(system, Create(type="email"))
    follower = Remembering(system)
    catch_up(system.database, follower)
    (change,) = follower.told

    assert change.recorded.stored is None
    with pytest.raises(ValueError, match="set wants_envelope = True"):
        _ = change.recorded.leaf


def test_an_event_that_is_not_stored_yet_has_no_leaf() -> None:
    recorded = Recorded(1, 1, 1, START_MS, "a", None, event=None)  # type: ignore[arg-type]  # none

    with pytest.raises(ValueError, match="wants_envelope"):
        _ = recorded.leaf
