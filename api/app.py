"""The WSGI app: the middleware, and the resource of each route."""

from collections.abc import Callable, Collection, Sequence

import falcon

from ledger.api import openapi
from ledger.api.http import errors
from ledger.api.http.long_poll import LongPolls
from ledger.api.http.origins import Origins
from ledger.api.http.raw_paths import Paths
from ledger.api.http.requests import Negotiation
from ledger.api.operations import OPERATIONS
from ledger.api.resources import activity as by_minute
from ledger.api.resources import attempt_reports, health, jobs, lists, search, stats, workers
from ledger.log.ledger import Ledger
from ledger.projections.lag import Standing
from ledger.projections.models.activity import Activity
from ledger.projections.models.jobs import Jobs
from ledger.projections.models.ledger_state import LedgerState
from ledger.projections.models.state_counts import StateCounts
from ledger.projections.search.search import Search

App = falcon.App[falcon.Request, falcon.Response]


def create_app(
    ledger: Ledger,
    jobs_view: Jobs,
    state_counts: StateCounts,
    ledger_state: LedgerState,
    activity: Activity,
    searching: Search,
    standings: Callable[[], Sequence[Standing]],
    polls: LongPolls,
    *,
    lease_ms: int,
    largest_body_bytes: int,
    largest_page: int,
    hosts: Collection[str] = (),
    cors_origins: tuple[str, ...] = (),
) -> App:
    """Return the WSGI app.

    Args:
        ledger: Executes the commands.
        jobs_view: The read model of jobs and lists.
        state_counts: The read model of counts and types.
        ledger_state: The read model of the ledger's own state: paused types.
        activity: The read model of what happened in each minute.
        searching: Finds jobs by the words of their data.
        standings: Returns the lag of each follower.
        polls: Lets requests wait.
        lease_ms: How long a worker may be silent.
        largest_body_bytes: Larger request bodies are refused.
        largest_page: Maximum number of jobs, events or lines in one answer.
        hosts: Hosts that requests may name, besides localhost and loopback addresses.
        cors_origins: Origins of web pages that may use the API.
    """
    app: App = falcon.App(media_type=errors.JSON_TYPE)
    app.add_middleware(Origins(hosts, cors_origins))
    if cors_origins:
        app.add_middleware(falcon.CORSMiddleware(allow_origins=cors_origins, expose_headers="ETag"))
    app.add_middleware([Paths([each.path for each in OPERATIONS]), Negotiation()])
    errors.install(app)
    database = ledger.database
    presence = workers.Presence(ledger, lease_ms=lease_ms)

    def hearing(word: attempt_reports.Word) -> attempt_reports.Hearing:
        return attempt_reports.Hearing(ledger, word, largest_body_bytes=largest_body_bytes)

    job_lists = lists.Lists(database, jobs_view.lists, state_counts, largest_page=largest_page)
    for template, resource in (
        ("/job", jobs.Creation(ledger, largest_body_bytes=largest_body_bytes)),
        ("/job/{job_id}", jobs.Job(ledger, jobs_view)),
        (
            "/job/{job_id}/log",
            jobs.JobLog(
                database, jobs_view, hearing(attempt_reports.LOG), largest_page=largest_page
            ),
        ),
        ("/job/{job_id}/progress", hearing(attempt_reports.PROGRESS)),
        ("/job/{job_id}/complete", hearing(attempt_reports.COMPLETE)),
        ("/job/{job_id}/fail", hearing(attempt_reports.FAIL)),
        ("/job/{job_id}/return", hearing(attempt_reports.RETURN)),
        ("/job/{job_id}/events", jobs.JobHistory(database, largest_page=largest_page)),
        ("/job/{job_id}/state/{state}", jobs.JobState(ledger)),
        ("/job/{job_id}/priority/{priority}", jobs.JobPriority(ledger)),
        ("/job/types", stats.Types(database, state_counts)),
        ("/job/search", search.Searches(database, searching, largest_page=largest_page)),
        ("/stats", stats.Stats(database, state_counts)),
        (
            "/activity",
            by_minute.ActivityByMinute(ledger, activity, largest_page=largest_page),
        ),
        ("/inactive/{job_id}", jobs.Restart(ledger, jobs_view)),
        (
            "/jobs/claim",
            workers.Claims(
                ledger,
                jobs_view,
                ledger_state,
                polls,
                presence,
                largest_body_bytes=largest_body_bytes,
            ),
        ),
        ("/workers", workers.Workers(ledger, jobs_view)),
        ("/workers/{name}", workers.Leaving(ledger, jobs_view)),
        ("/workers/{name}/heartbeat", workers.Heartbeat(ledger, jobs_view, presence)),
        ("/jobs/{one}", job_lists),
        ("/jobs/{one}/{two}", job_lists),
        ("/jobs/{one}/{two}/{three}", job_lists),
        ("/jobs/{one}/{two}/{three}/{four}", job_lists),
        ("/health/live", health.Live()),
        ("/health/ready", health.Ready(database, standings)),
        ("/openapi.json", openapi.OpenApi()),
    ):
        app.add_route(template, resource)
    return app
