"""What tests/integration does with some jobs or once, with many jobs and often."""

from ledger.processes.composition import System
from tests.integration.servers import Server
from tests.integration.test_rebuild_under_load import rebuild_beside_others
from tests.integration.test_release_before import go_down_and_up
from tests.integration.test_search_server import search_from_many_threads


def test_a_ledger_with_ten_thousand_jobs_goes_down_and_up(bare: System) -> None:
    go_down_and_up(bare, jobs=10_000)


def test_writers_go_on_and_readers_see_whole_views(filled: System, database_url: str) -> None:
    rebuild_beside_others(filled, database_url, rebuilds=5)


def test_four_processes_answer_as_of_now_and_stay_as_they_are(server: Server) -> None:
    search_from_many_threads(server, searches=40)
