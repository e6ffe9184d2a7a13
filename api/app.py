"""The WSGI app: the middleware, and the resources behind the routes."""

from collections.abc import Callable, Collection, Sequence

import falcon

from ledger.api import openapi
from ledger.api.http import errors
from ledger.api.http.client_limits import ClientLimits
from ledger.api.http.long_poll import LongPolls
from ledger.api.http.origins import Origins, VaryByOrigin
from ledger.api.http.raw_paths import Paths
from ledger.api.http.requests import Negotiation
from ledger.api.operations import OPERATIONS
from ledger.api.resources import (
    activity,
    attempt_reports,
    description,
    health,
    jobs,
    lists,
    search,
    stats,
    workers,
)
from ledger.api.routing import add_routes, template
from ledger.database.answer_bytes import ANSWER_BYTES
from ledger.log.ledger import Ledger
from ledger.projections.lag import Lag
from ledger.projections.models.activity import Activity
from ledger.projections.models.jobs import Jobs
from ledger.projections.models.state_counts import StateCounts
from ledger.projections.search.search import Search
from ledger.queue.read_models import ReadModels


class App(falcon.App[falcon.Request, falcon.Response]):
    """The WSGI app.

    Attributes:
        client_limits: What the server that runs it requires of clients.
    """

    client_limits = ClientLimits()


def create_app(
    ledger: Ledger,
    read_models: ReadModels,
    jobs_view: Jobs,
    state_counts: StateCounts,
    activity_view: Activity,
    searching: Search,
    lags: Callable[[], Sequence[Lag]],
    polls: LongPolls,
    *,
    lease_ms: int,
    largest_body_bytes: int,
    largest_page: int,
    answer_bytes: int = ANSWER_BYTES,
    hosts: Collection[str] = (),
    cors_origins: tuple[str, ...] = (),
    kue_lenient: bool = False,
    client_timeout_ms: int = 30_000,
) -> App:
    """Return the WSGI app.

    Args:
        ledger: Executes the commands.
        read_models: Answers the queries that need several read models.
        jobs_view: The read model of jobs and lists.
        state_counts: The read model of counts and types.
        activity_view: The read model of the counts per minute.
        searching: Finds jobs by the words of their data.
        lags: Returns the lag of each follower.
        polls: The waiting requests.
        lease_ms: Time in milliseconds after which a silent worker is considered lost.
        largest_body_bytes: Larger request bodies are refused.
        largest_page: Maximum number of jobs, events, lines, types or workers in one answer.
        answer_bytes: Bytes of the contents of events or lines in one answer; 8 MiB by default.
            That of jobs belongs to their read model.
        hosts: Hosts that requests may name, in addition to localhost and loopback addresses.
        cors_origins: Origins of web pages that may use the API.
        kue_lenient: Whether the routes of Kue answer as Kue did where its clients rely on it.
        client_timeout_ms: Time in milliseconds in which a client must make progress.
    """
    app = App(media_type=errors.JSON_TYPE)
    app.client_limits = ClientLimits(largest_body_bytes, client_timeout_ms / 1000)
    changing_gets = [template(each.path) for each in OPERATIONS if each.changing_get]
    app.add_middleware(Origins(hosts, cors_origins, changing_gets))
    if cors_origins:
        app.add_middleware(
            falcon.CORSMiddleware(allow_origins=cors_origins, expose_headers="ETag, Link")
        )
        app.add_middleware(VaryByOrigin())
    app.add_middleware([Paths([each.path for each in OPERATIONS]), Negotiation()])
    kues = {(each.method, template(each.path)) for each in OPERATIONS if each.is_kues}
    errors.install(app, lenient=kues if kue_lenient else ())
    database = ledger.database
    resources = (
        activity.ActivityByMinute(ledger, activity_view, largest_page=largest_page),
        attempt_reports.AttemptReports(ledger),
        description.Description(openapi.encoded()),
        health.Health(ledger, read_models, lags),
        jobs.JobChanges(ledger),
        jobs.JobCreation(ledger, kue_lenient=kue_lenient),
        jobs.JobReads(ledger, jobs_view, largest_page=largest_page, answer_bytes=answer_bytes),
        lists.Lists(database, jobs_view.lists, state_counts, largest_page=largest_page),
        search.Searches(database, searching, polls, largest_page=largest_page),
        stats.StatsReads(database, state_counts, largest_page=largest_page),
        workers.Claims(ledger, jobs_view, read_models, polls, lease_ms=lease_ms),
        workers.Workers(ledger, read_models, lease_ms=lease_ms, largest_page=largest_page),
    )
    add_routes(app, resources, largest_body_bytes=largest_body_bytes, kue_lenient=kue_lenient)
    return app
