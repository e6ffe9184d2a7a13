"""Web pages that attack a ledger on their visitor's machine; only permitted ones reach it."""

from pathlib import Path
from typing import Any, Final

from ledger.processes.composition import System
from tests.browser.chromium import page
from tests.browser.hostile import Asked, HostileSite
from tests.builders import rows
from tests.integration.servers import Server, wait_until

IBAN: Final = "DE00 SECRET"
NAMES: Final = ("rebind.evil.test", "evil.test", "ledger.test")
# Requests of elsewhere.html that would change jobs, and that browsers send without a preflight.
GETS: Final = {
    "/INACTIVE/1/",
    "/inactive/1",
    *(f"/inactive/1?{number}" for number in (2, 3, 4, 5)),
}
POSTS: Final = {
    *(f"/inactive/1?{number}" for number in (6, 7, 12)),
    "/job",
    "/job?8",
    "/workers/page/heartbeat",
}


def prepare(server: Server) -> None:
    """Create a complete job with a secret, and an inactive job."""
    server.ask("POST", "/job", {"type": "email", "data": {"iban": IBAN}})
    server.ask("PUT", "/job/1/state/complete")
    server.create()


def recorded(system: System) -> Any:
    """Return the events, and the workers, whose heartbeats are not events."""
    return (
        rows(system, "SELECT job_id, version, kind FROM ledger_events ORDER BY position"),
        rows(system, "SELECT name FROM ledger_workers"),
    )


def test_a_page_whose_name_resolves_to_this_machine_reads_and_changes_nothing(
    server: Server, system: System, hostile: HostileSite, chromium: str, tmp_path: Path
) -> None:
    prepare(server)
    before = recorded(system)

    with page(chromium, f"http://rebind.evil.test:{hostile.port}/attack", tmp_path, *NAMES):
        got = hostile.report()

    assert {each["status"] for each in got} == {421}
    assert len(got) == 14
    assert IBAN not in str(got)
    assert recorded(system) == before


def test_a_page_that_the_server_could_have_served_reads_and_changes_all(
    server: Server, system: System, hostile: HostileSite, chromium: str, tmp_path: Path
) -> None:
    prepare(server)

    with page(chromium, f"http://localhost:{hostile.port}/attack", tmp_path, *NAMES):
        got = hostile.report()

    events, workers = recorded(system)
    assert {each["status"] for each in got} == {200}
    assert [each["path"] for each in got if IBAN in each["text"]] == [
        "/job/1",
        "/job/1/events",
        "/jobs/0..9",
        "/jobs/claim",
    ]
    assert [(each["job_id"], each["kind"]) for each in events][3:] == [
        (3, "created"),
        (1, "reprioritized"),
        (1, "moved"),
        (1, "started"),
        (2, "removed"),
    ]
    assert workers == [{"name": "page"}]


def test_a_page_of_another_site_reads_and_changes_nothing(
    server: Server, system: System, hostile: HostileSite, chromium: str, tmp_path: Path
) -> None:
    prepare(server)
    before = recorded(system)

    with page(chromium, elsewhere(hostile, "127.0.0.1"), tmp_path, *NAMES):
        got = hostile.report()
        attempts = asked(hostile, GETS | POSTS)

    assert IBAN not in str(got)
    assert recorded(system) == before
    assert {each.status for each in attempts} == {403}
    assert {each.site for each in attempts} == {"cross-site"}


def test_a_page_of_another_site_changes_nothing_where_browsers_tell_only_its_origin(
    server: Server, system: System, hostile: HostileSite, chromium: str, tmp_path: Path
) -> None:
    prepare(server)
    before = recorded(system)

    # Over plain HTTP, browsers send Sec-Fetch-Site only to the loopback hosts.
    with page(chromium, elsewhere(hostile, "ledger.test") + "#posts", tmp_path, *NAMES):
        got = hostile.report()
        attempts = asked(hostile, POSTS)

    assert IBAN not in str(got)
    assert recorded(system) == before
    assert {each.status for each in attempts} == {403}
    assert {each.site for each in attempts} == {None}
    assert {each.origin for each in attempts} == {f"http://evil.test:{hostile.port}", "null"}


def test_a_page_of_another_site_that_the_operator_named_reads_and_changes(
    url: str, hostile: HostileSite, chromium: str, tmp_path: Path
) -> None:
    variables = {"LEDGER_CORS_ORIGINS": f"http://evil.test:{hostile.port}"}
    with Server(url, tmp_path, variables=variables) as server:
        hostile.ledger_port = server.port
        prepare(server)

        with page(chromium, elsewhere(hostile, "127.0.0.1"), tmp_path, *NAMES):
            got = {each["path"]: each for each in hostile.report()}

    assert [got[path]["status"] for path in ("/inactive/1?5", "/job?9", "/job/1?10")] == [200] * 3
    assert IBAN in got["/job/1?10"]["text"]


def elsewhere(hostile: HostileSite, host: str) -> str:
    """Return the URL of the page that attacks the ledger at the name *host*."""
    return f"http://evil.test:{hostile.port}/elsewhere?{host}"


def asked(hostile: HostileSite, paths: set[str]) -> list[Asked]:
    """Wait for requests for all *paths*, since a page cannot wait for a beacon; return them."""
    wait_until(lambda: paths <= {each.path for each in hostile.asked}, "the requests have come")
    return [each for each in hostile.asked if each.path in paths]
