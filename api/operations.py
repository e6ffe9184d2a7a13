"""The operations of the HTTP API: one row for each method of each path.

Everything else about a route is derived from its row: the routing with the reading of
parameters and bodies (``routing``), the OpenAPI description (``openapi``), the table in
docs/http.md, and the tests that cover all routes.  A new route is one row here and one method
of a resource, which receives the parameters and the body of the row as keyword arguments.
"""

from typing import Annotated, Any, Final

from msgspec import Meta, Raw

from ledger.api.http import parameters, posted_jobs
from ledger.api.http.bodies import (
    ClaimRequest,
    CompleteReport,
    FailReport,
    LogReport,
    PostedJob,
    ProgressReport,
    ReturnReport,
)
from ledger.api.http.json_body import BodyReader, JsonBody
from ledger.api.operation import Body, Operation, Responder, Tag
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
from ledger.api.schemas import (
    ClaimedJob,
    Count,
    Created,
    CreatedOrError,
    Error,
    Event,
    Heartbeat,
    Job,
    Message,
    Minute,
    Stats,
    Status,
    Worker,
)


def _object(struct: type[JsonBody]) -> Body:
    return Body(type=struct, read=BodyReader(struct).read)


_PostedJobs = Annotated[list[PostedJob], Meta(max_length=posted_jobs.MOST_POSTED)]
_NoJob = Annotated[Raw, Meta(extra_json_schema={"type": "object", "maxProperties": 0})]


def _list(prefix: str, what: str, *, ordered: bool) -> Operation:
    return Operation(
        method="GET",
        path=f"/jobs{prefix}/{{range}}{'/{order}' if ordered else ''}",
        summary=f"List {what}, oldest first{' or, with desc, newest first' if ordered else ''}",
        responder=lists.Lists.page,
        answers={200: list[Job]},
        refuses=(404,),
        query=(parameters.SORT,),
        can_be_cut=True,
        tag=Tag.ALWAYS,
        is_kues=True,
    )


def _report(word: str, summary: str, struct: type[JsonBody], responder: Responder) -> Operation:
    return Operation(
        method="POST",
        path=f"/job/{{id}}/{word}",
        summary=summary,
        responder=responder,
        answers={200: Message},
        refuses=(404, 409),
        body=_object(struct),
    )


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/stats",
        summary="Count the jobs in each state, and sum the working time",
        responder=stats.StatsReads.show,
        answers={200: Stats},
        tag=Tag.ALWAYS,
        is_kues=True,
    ),
    Operation(
        method="GET",
        path="/activity",
        summary="Count jobs created, started, completed and failed per minute; a second behind",
        responder=activity.ActivityByMinute.by_minute,
        answers={200: list[Minute]},
        query=(parameters.FROM, parameters.TO, parameters.OF_TYPE),
        tag=Tag.FOR_FIXED_TIMES,
    ),
    Operation(
        method="GET",
        path="/job/types",
        summary="List the types that have jobs",
        responder=stats.StatsReads.types,
        answers={200: list[str]},
        query=(parameters.AFTER_TYPE,),
        can_be_cut=True,
        tag=Tag.ALWAYS,
        is_kues=True,
    ),
    Operation(
        method="GET",
        path="/job/search",
        summary="Find jobs whose data contains all words of q, newest first",
        responder=search.Searches.find,
        answers={200: list[str]},
        query=(parameters.WORDS, parameters.SEARCH_LIMIT, parameters.OFFSET),
        tag=Tag.ALWAYS,
        is_kues=True,
    ),
    Operation(
        method="POST",
        path="/job",
        summary="Create a job, or an array of up to 1,000 jobs",
        responder=jobs.JobCreation.create,
        answers={
            200: Created | list[CreatedOrError],
            204: None,
            400: Error | list[CreatedOrError],
        },
        refuses=(422,),
        query=(parameters.ATOMIC,),
        headers=(parameters.IDEMPOTENCY_KEY,),
        body=Body(
            type=PostedJob | _PostedJobs | _NoJob,
            read=posted_jobs.read_jobs,
            read_leniently=posted_jobs.read_jobs_leniently,
            required=False,
        ),
        is_kues=True,
    ),
    Operation(
        method="GET",
        path="/job/{id}",
        summary="Show a job",
        responder=jobs.JobReads.show,
        answers={200: Job},
        refuses=(404,),
        tag=Tag.ALWAYS,
        is_kues=True,
    ),
    Operation(
        method="DELETE",
        path="/job/{id}",
        summary="Remove a job from every view; its history stays",
        responder=jobs.JobChanges.remove,
        answers={200: Message},
        refuses=(404,),
        is_kues=True,
    ),
    Operation(
        method="GET",
        path="/job/{id}/log",
        summary="Show the log of a job, with the first line of each failure",
        responder=jobs.JobReads.log,
        answers={200: list[str]},
        refuses=(404,),
        query=(parameters.BEFORE,),
        can_be_cut=True,
        tag=Tag.ALWAYS,
        is_kues=True,
    ),
    Operation(
        method="GET",
        path="/job/{id}/events",
        summary="Show all events of a job, also after its removal",
        responder=jobs.JobReads.events,
        answers={200: list[Event]},
        refuses=(404,),
        query=(parameters.AFTER, parameters.LIMIT),
        can_be_cut=True,
        tag=Tag.ALWAYS,
    ),
    Operation(
        method="PUT",
        path="/job/{id}/state/{state}",
        summary="Move a job to a state",
        responder=jobs.JobChanges.move,
        answers={200: Message},
        refuses=(404,),
        is_kues=True,
    ),
    Operation(
        method="PUT",
        path="/job/{id}/priority/{priority}",
        summary="Change a job's priority",
        responder=jobs.JobChanges.reprioritize,
        answers={200: Message},
        refuses=(404,),
        is_kues=True,
    ),
    Operation(
        method="GET",
        path="/inactive/{id}",
        summary="Queue a job again; the GET exists for Kue's own pages",
        responder=jobs.JobChanges.requeue,
        answers={200: Message},
        refuses=(404,),
        changing_get=True,
        head=jobs.JobReads.exists,
        is_kues=True,
    ),
    Operation(
        method="POST",
        path="/inactive/{id}",
        summary="Queue a job again",
        responder=jobs.JobChanges.requeue,
        answers={200: Message},
        refuses=(404,),
    ),
    _list("", "all jobs", ordered=False),
    _list("", "all jobs", ordered=True),
    _list("/{state}", "the jobs in a state", ordered=False),
    _list("/{state}", "the jobs in a state", ordered=True),
    _list("/{type}/{state}", "the jobs of a type in a state", ordered=False),
    _list("/{type}/{state}", "the jobs of a type in a state", ordered=True),
    Operation(
        method="GET",
        path="/jobs/{type}/{state}/stats",
        summary="Count the jobs of a type in a state",
        responder=lists.Lists.count,
        answers={200: Count},
        tag=Tag.ALWAYS,
        is_kues=True,
    ),
    Operation(
        method="POST",
        path="/jobs/claim",
        summary="Give jobs to a worker; wait for jobs if requested",
        responder=workers.Claims.claim,
        answers={200: list[ClaimedJob]},
        body=_object(ClaimRequest),
    ),
    _report(
        "progress",
        "Report the progress of an attempt; restarts its ttl",
        ProgressReport,
        attempt_reports.AttemptReports.progress,
    ),
    _report(
        "log",
        "Add lines to the log of a job",
        LogReport,
        attempt_reports.AttemptReports.log,
    ),
    _report(
        "complete",
        "Report that an attempt succeeded",
        CompleteReport,
        attempt_reports.AttemptReports.complete,
    ),
    _report(
        "fail",
        "Report that an attempt failed; retries the job if attempts are left",
        FailReport,
        attempt_reports.AttemptReports.fail,
    ),
    _report(
        "return",
        "Return an unfinished job to the queue; uses up no attempt",
        ReturnReport,
        attempt_reports.AttemptReports.return_job,
    ),
    Operation(
        method="POST",
        path="/workers/{name}/heartbeat",
        summary="Send a heartbeat; the answer lists the attempts that the worker holds",
        responder=workers.Workers.heartbeat,
        answers={200: Heartbeat},
    ),
    Operation(
        method="DELETE",
        path="/workers/{name}",
        summary="Report the end of a worker; its jobs return to the queue",
        responder=workers.Workers.leave,
        answers={200: Message},
    ),
    Operation(
        method="GET",
        path="/workers",
        summary="List the workers, with the number of their jobs",
        responder=workers.Workers.show,
        answers={200: list[Worker]},
        query=(parameters.AFTER_WORKER,),
        can_be_cut=True,
    ),
    Operation(
        method="GET",
        path="/health/live",
        summary="Report that the process answers",
        responder=health.Health.live,
        answers={200: Status},
        asks_database=False,
    ),
    Operation(
        method="GET",
        path="/health/ready",
        summary="Report whether the database answers and has the tables of this version",
        responder=health.Health.ready,
        answers={200: Status},
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        summary="Return this description",
        responder=description.Description.show,
        answers={200: Any},
        asks_database=False,
    ),
)
