"""The kills of tests/integration, again and again: the rarer a moment, the more it takes."""

from pathlib import Path

from ledger.processes.composition import System
from tests.integration.servers import Postgres
from tests.integration.test_activity import kill_followers
from tests.integration.test_chaos import kill_workers
from tests.integration.test_crashes import kill_postgresql, kill_servers
from tests.integration.test_rebuild_under_load import kill_rebuilds
from tests.integration.test_search import kill_indexers


def test_what_was_acknowledged_survives_twenty_kills_of_the_server(tmp_path: Path) -> None:
    kill_servers(tmp_path, kills=20)


def test_the_api_outlives_ten_kills_of_postgresql(killable: Postgres, tmp_path: Path) -> None:
    kill_postgresql(killable, tmp_path, kills=10)


def test_a_follower_that_is_killed_at_any_moment_counts_everything_once(
    system: System, database_url: str, tmp_path: Path
) -> None:
    kill_followers(system, database_url, tmp_path, kills=20)


def test_a_killed_indexer_has_indexed_each_event_once(
    database_url: str, system: System, folder: Path
) -> None:
    within_a_commit = kill_indexers(database_url, system, folder, kills=50)

    assert within_a_commit > 10


def test_a_rebuild_that_is_killed_at_any_moment_leaves_everything_whole(
    filled: System, database_url: str, tmp_path: Path
) -> None:
    moments = (1, 7, 15, 20, 21, 22, 23, 24, 25, 30)
    kill_rebuilds(filled, database_url, tmp_path, after_steps=moments)


def test_no_job_is_lost_or_done_twice_at_once_however_many_workers_are_killed(
    system: System, database_url: str, tmp_path: Path
) -> None:
    kill_workers(system, database_url, tmp_path, jobs=2_000)
