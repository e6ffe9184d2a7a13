"""The differences from Kue 0.11.6: the records' numbers, Kue's answer, ours, and the reason.

A row turns Kue's recorded answer into ours; a record may be in several rows, which
apply in order.  Everything else must be equal: status, media type, and the whole body
except the times and names that ``transcripts.comparable`` masks.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.contract.client import JSON_TYPE
from tests.contract.transcripts import Record, Said, records

Answer = Callable[[Said, Record], Said]


@dataclass(frozen=True)
class Text:
    """A text that equals every text that matches the pattern."""

    pattern: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.search(self.pattern, other) is not None

    def __hash__(self) -> int:
        return hash(self.pattern)


def numbers(ranges: str) -> Iterator[int]:
    """Yield the numbers in a text such as ``1 3-5``."""
    for part in ranges.split():
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def refused(status: int, pattern: str) -> Answer:
    """Return the answer ``{"error": …}`` with a text that matches *pattern*."""
    return lambda _, __: Said(status, JSON_TYPE, {"error": Text(pattern)})


def gone(said: Said, record: Record) -> Said:
    """Return the answer about a job that does not exist, in Kue's words."""
    job_id = record.target.split("/")[2]
    return Said(404, JSON_TYPE, {"error": f'job "{job_id}" doesnt exist'})


def named(said: Said, record: Record) -> Said:
    job_id = said.body["id"]
    return said._replace(body={"message": f"job {job_id} created", "id": job_id})


def textual_ids(said: Said, record: Record) -> Said:
    return said._replace(body=[job | {"id": str(job["id"])} for job in said.body])


def changed(**values: Any) -> Answer:
    """Return Kue's object with some values replaced."""
    return lambda said, _: said._replace(body={**said.body, **values})


def without(ids: str) -> Answer:
    """Return Kue's list without the jobs in *ids*."""
    dropped = {str(job_id) for job_id in numbers(ids)}
    return lambda said, _: said._replace(
        body=[job for job in said.body if job["id"] not in dropped]
    )


def page(number: int, *ids: int) -> Answer:
    """Return a page of jobs as Kue shows them in the list of record *number*."""

    def answer(said: Said, _: Record) -> Said:
        everything = {job["id"]: job for job in records()[INDEX[number]].kue.body}
        return said._replace(body=[everything[job_id] | {"id": str(job_id)} for job_id in ids])

    return answer


def body(value: Any) -> Answer:
    """Return an answer with status 200 and a JSON body."""
    return lambda _, __: Said(200, JSON_TYPE, value)


def as_json(said: Said, record: Record) -> Said:
    return said._replace(media_type=JSON_TYPE, body={"error": Text(".")})


def with_zero_result(said: Said, record: Record) -> Said:
    """Insert ``"result": 0``, at its position, into the job whose handler returned it."""

    def job(value: dict[str, Any]) -> dict[str, Any]:
        if value["data"] != {"do": "result", "value": 0}:
            return value
        at = list(value).index("data") + 1
        return dict([*list(value.items())[:at], ("result", 0), *list(value.items())[at:]])

    one_or_many = said.body
    many = isinstance(one_or_many, list)
    return said._replace(body=[job(one) for one in one_or_many] if many else job(one_or_many))


def created(*ids: int | None) -> Answer:
    """Return the answer to an array: the ids of created jobs, None for one without a type."""
    items = [
        {"error": "Must provide job type"}
        if job_id is None
        else {"message": "job created", "id": job_id}
        for job_id in ids
    ]
    return lambda _, __: Said(400 if None in ids else 200, JSON_TYPE, items)


def rounded(said: Said, record: Record) -> Said:
    """Return a job, or a list of jobs, with the wait of 1.5 ms in whole milliseconds."""

    def job(value: dict[str, Any]) -> dict[str, Any]:
        waits = {name: "2" for name in ("delay", "ttl") if value.get(name) == "1.5"}
        return value | waits

    many = isinstance(said.body, list)
    return said._replace(body=[job(one) for one in said.body] if many else job(said.body))


def last_too_long(said: Said, record: Record) -> Said:
    error = {"error": Text("^Must provide job type: expected 1 to 255 characters")}
    return said._replace(status=400, body=[*said.body[:-1], error])


INDEX: Final = {record.number: index for index, record in enumerate(records())}
# For each record: the record whose list contains the jobs, and the ids on the page.
NEWEST_FIRST: Final[Mapping[int, Answer]] = {
    412: page(420, 15, 14, 13, 12),
    423: page(420, 5, 4, 3, 2, 1),
    454: page(420, 15, 14, 13),
    461: page(420, 12, 11, 10),
}
EMPTY: Final[Answer] = lambda _, __: Said(200, JSON_TYPE, None)  # noqa: E731 - a constant


@dataclass(frozen=True)
class Mend:
    """A row of the table.

    Attributes:
        where: Numbers of the records.
        kue: What Kue answers.
        ours: What we answer.
        why: A sentence of the contract, or a consequence of one.
        answer: Converts Kue's answer to ours.
    """

    where: str
    kue: str
    ours: str
    why: str
    answer: Answer


MENDED: Final = (
    # --- everywhere
    Mend(
        "15 17 19 21 23 25 27 29 31 33 35 37 39 41 43 45 47 49 51 53 55 57 59 61 63 65 67 69 71 "
        "73 75 77 79 81 83 85 87 89 91 93 95 97 100 105 107 109 111 113 115 117 119 121 123 125 "
        "127 152 156 158 160-161 163-164 170 172 174 176 178 180 182 184 186 188 190 192 194 196 "
        "198 200 202 204 206 208 210 212 214 216 218 220 222 224 226 228 230 232 234 236 238 240 "
        "242 244 246 248 250 252 254 256 258 260 262 264 266 268 270 272 274 276 278 280 282 "
        "288-309 381 574 695 699 741 746 827",
        '{"message":"job created","id":3}',
        '{"message":"job 3 created","id":3}',
        'Kue\'s manual documents {"message": "job 3 created"}.',
        named,
    ),
    Mend(
        "285-287 314 363 365 367 369 388 410-418 420-423 425-427 429 435-440 447-448 453-456 "
        "460-462 465 467 526 528 530 532 534 536 538 540 542 544 546 548 550 552 554 556 558 560 "
        "562 564 567 571 721-722 724 733 851 855",
        "ids are numbers in lists",
        "ids are strings in lists too",
        "`id` is a string in every answer, as in Kue's manual.",
        textual_ids,
    ),
    Mend(
        "1 137 171 284 310 702 705 708 711 714 717 720 847-848 853 871 873 875 879 881 889 893 "
        "899 902 904-905",
        '"workTime":null',
        '"workTime":0',
        "All six values are always numbers.",
        changed(workTime="a number"),
    ),
    Mend(
        "136 525",
        "types in any order",
        "types sorted",
        "`GET /job/types` returns a sorted array of strings.",
        lambda said, _: said._replace(body=sorted(said.body)),
    ),
    Mend(
        "144-151 157 162 168 443-446 468-469 475-477 479 566 569-570 728-729 781 843 856 858-860 "
        "862-864 917 920-923 852",
        "the error as an HTML page",
        '{"error": …} with the same status',
        "All answers are JSON, including errors.",
        as_json,
    ),
    Mend(
        "842",
        "HEAD has the media type of HTML",
        "HEAD has the media type of JSON, and the same status",
        "All answers are JSON, including errors.",
        lambda said, _: said._replace(media_type=JSON_TYPE),
    ),
    # --- jobs that do not exist
    Mend(
        "9 11-14 350 385 389 735-736 782 784",
        '200 {"error":"job \\"1\\" doesnt exist"}',
        "404 with the same text",
        "A missing job is 404; Kue's `error` key and its text stay.",
        gone,
    ),
    Mend("10", "200 []", "404", "A missing job is 404.", gone),
    # --- POST /job: the job
    Mend(
        "97 100 121 123 125 127",
        "created: the type is turned into text",
        "400 Must provide job type",
        "A type is a non-empty string.",
        refused(400, "^Must provide job type"),
    ),
    Mend(
        "71",
        "created: 1e400 becomes null, a big integer is rounded",
        "400",
        "Values that JSON cannot represent exactly (NaN, 1e999, a lone surrogate) are refused.",
        refused(400, "^data: expected JSON, got: Number out of range"),
    ),
    Mend(
        "46 48 64 72 98 101 122 124 126 128",
        "the job that Ledger refused",
        "404",
        "The job was refused above; the test skips its id so that later ids agree.",
        gone,
    ),
    Mend(
        "82",
        '0 is shown as "data":{}',
        '"data":0',
        "`data` is the posted value, or `{}` if that is absent or null.",
        changed(data=0),
    ),
    Mend(
        "88",
        'false is shown as "data":{}',
        '"data":false',
        "`data` is the posted value, or `{}` if that is absent or null.",
        changed(data=False),
    ),
    Mend(
        "94",
        '"" is shown as "data":{}',
        '"data":""',
        "`data` is the posted value, or `{}` if that is absent or null.",
        changed(data=""),
    ),
    Mend(
        "136",
        "includes types of jobs that Ledger refused",
        "lists the other types",
        "`GET /job/types` returns the types that have jobs.",
        lambda said, _: said._replace(
            body=[
                name
                for name in said.body
                if name not in {"5", "true", "[object Object]", "one", "a", "b"}
            ]
        ),
    ),
    Mend(
        "137",
        "counts the jobs that Ledger refused",
        "counts the other jobs",
        "The nine jobs refused above are not counted.",
        changed(inactiveCount=49),
    ),
    Mend(
        "524",
        "creates a job whose type has 300 characters",
        "400 with an error in its place; the others are created",
        "A type has 1 to 255 characters; the other jobs of the array are created.",
        last_too_long,
    ),
    Mend(
        "525",
        "lists the type of 300 characters",
        "does not list it",
        "It was refused above.",
        lambda said, _: said._replace(body=[name for name in said.body if len(name) <= 255]),
    ),
    Mend("564", "the job of that type", "[]", "The list of an unknown type is `[]`.", body([])),
    Mend("565", '{"count":1}', '{"count":0}', "It was refused above.", body({"count": 0})),
    # --- POST /job: the body
    Mend(
        "153-155 159",
        "204: the job is silently lost",
        "415",
        "A body that is not JSON is refused with 415; Kue loses the job without an error.",
        refused(415, "^Content-Type: expected application/json"),
    ),
    Mend(
        "163",
        "created: bad UTF-8 becomes U+FFFD",
        "400",
        "Data that cannot be stored exactly is refused.",
        refused(400, "^data: expected UTF-8"),
    ),
    Mend(
        "165",
        "413 HTML: more than 102,400 bytes",
        "created",
        "A body has at most 1 MiB.",
        body({"message": "job 8 created", "id": 8}),
    ),
    Mend(
        "166",
        "413 HTML: more than 102,400 bytes",
        "created",
        "A body has at most 1 MiB.",
        created(*range(9, 1009)),
    ),
    Mend(
        "167",
        "500 HTML",
        "400 with an error in its place; the other is created",
        "An array is answered in order; the status is 400 if any item was refused.",
        created(None, 1009),
    ),
    Mend(
        "170",
        "the next id",
        "the next id, after the jobs that Kue refused",
        "A body has at most 1 MiB.",
        changed(message="job 1010 created", id=1010),
    ),
    Mend(
        "171",
        "counts the jobs that Kue created",
        "counts the jobs that Ledger created",
        "A body has at most 1 MiB; one of the jobs that Kue created was not UTF-8.",
        changed(inactiveCount=1009),
    ),
    Mend(
        "918",
        "413 HTML: more than 102,400 bytes",
        "created",
        "A body has at most 1 MiB.",
        body({"message": "job 1 created", "id": 1}),
    ),
    Mend(
        "919",
        "500 HTML",
        "400 with an error in its place",
        "An array is answered in order; the status is 400 if any item was refused.",
        created(None),
    ),
    # --- POST /job: the options
    Mend(
        "63",
        "created: unknown fields and options are ignored",
        "400 with the name of the field",
        "An unknown field or option is refused with its name and the known ones.",
        refused(400, "^unknown field 'state'; expected one of type, data, options"),
    ),
    Mend(
        "174 176 180 182 184 188",
        "created: -1 is stored, other values are parsed as far as possible",
        "400 with the name of the option",
        "`attempts` is an integer, 1 or more.",
        refused(400, "^attempts: expected an integer from 1 to "),
    ),
    Mend(
        "45 47 192 198 200 202 204",
        "created, but in no list if the priority is invalid",
        "400 with the name of the option",
        "`priority` is a name or an integer.",
        refused(400, "^priority: expected an integer or one of low, normal, medium, high, "),
    ),
    Mend(
        "206 212 216 218 220 222",
        "created: ignored, stored unchanged, or never promoted",
        "400 with the name of the option",
        "`delay` is milliseconds from now, more than 0.",
        refused(400, "^delay: expected an integer from 1 to "),
    ),
    Mend(
        "226 230 232",
        "created: ignored, or stored as text",
        "400 with the name of the option",
        "`ttl` is milliseconds, more than 0.",
        refused(400, "^ttl: expected an integer from 1 to "),
    ),
    Mend(
        "240 242 244 246 248",
        "created, with a backoff without a delay",
        "400 with the name of the option",
        '`backoff` is `true` or `{"type":"fixed"|"exponential","delay":ms,"maxDelay":ms}`.',
        refused(400, r"^backoff(\.type|\.delay)?: expected "),
    ),
    Mend(
        "250 252 254",
        "created; the text is evaluated as code whenever the job is read",
        "400 with the name of the option",
        "A string as `backoff` is refused, because Kue evaluates it as code.",
        refused(400, "^backoff: expected true, or "),
    ),
    Mend(
        "262 264 266",
        "created: ignored",
        "400 with the name of the option",
        "`searchKeys` is a path into the data such as `a.b`, or an array of paths.",
        refused(400, "^searchKeys: expected a path such as a.b, or a list of them"),
    ),
    Mend(
        "268",
        "created: any truthy value removes the job",
        "400 with the name of the option",
        '`removeOnComplete` is true or false, or one of the forms 1, 0, "true" and "false".',
        refused(400, "^removeOnComplete: expected true or false"),
    ),
    Mend(
        "274 276 280",
        "created: ignored",
        "400",
        "`options` is an object.",
        refused(400, "^options: expected an object"),
    ),
    Mend(
        "175 177 181 183 185 189 193 199 201 203 205 207 213 217 219 221 223 227 231 233 241 243 "
        "245 247 249 251 253 255 263 265 267 269 275 277 281",
        "the job that Ledger refused",
        "404",
        "The job was refused above; the test skips its id so that later ids agree.",
        gone,
    ),
    Mend(
        "284",
        "counts the jobs that Ledger refused",
        "counts the other jobs",
        "They were refused above.",
        changed(inactiveCount=19, delayedCount=2),
    ),
    Mend(
        "285-287",
        "lists the jobs that Ledger refused",
        "lists the other jobs",
        "They were refused above.",
        without("2-3 5-7 9 18 21 23-26 28 30-31 35-39 42 46-49 52-53 55"),
    ),
    Mend(
        "215 235 285-287",
        '"delay":"1.5", "ttl":"1.5"',
        '"delay":"2", "ttl":"2"',
        "Fractions of a millisecond are rounded.",
        rounded,
    ),
    # --- a job's life
    Mend(
        "327 365",
        "a result of 0 is lost",
        '"result":0',
        'A falsy `result` (`0`, `false`, `""`) is stored.',
        with_zero_result,
    ),
    Mend(
        "334",
        '[""]: a failure reported as plain text leaves an empty line',
        "[its text]; the JSON types agree",
        "Each failure adds one line to the log, the first line of its error.",
        body(["plain string failure"]),
    ),
    Mend(
        "386",
        "a removed job is counted when its handler ends",
        "it is not counted",
        "A removed job is in no view; later reports of its worker are refused.",
        changed(completeCount=10),
    ),
    Mend(
        "387",
        "a removed job is counted when its handler ends",
        "it is not counted",
        "A removed job is in no view; later reports of its worker are refused.",
        changed(count=1),
    ),
    # --- lists
    Mend(
        "412 423 454 461",
        "desc reverses the jobs inside the page",
        "desc reverses the whole list",
        "`desc` reverses the whole list: `/jobs/0..2/desc` returns the three newest jobs.",
        lambda said, record: NEWEST_FIRST[record.number](said, record),
    ),
    Mend(
        "413-415 467",
        "an unknown order is ascending",
        "400",
        "An order is `asc` or `desc`.",
        refused(400, "^order: expected asc or desc"),
    ),
    Mend(
        "430",
        "200 with an error of Redis",
        "the whole list",
        "Ranks beyond the list are left out, however large they are.",
        lambda _, record: textual_ids(records()[INDEX[429]].kue, record),
    ),
    Mend(
        "431-438 440-442 458 466",
        "200 with an error of Redis, 404, or a list for the result of parseInt",
        "400",
        "Ranks are integers.",
        refused(400, r"^range: expected FROM\.\.TO, two integers"),
    ),
    Mend(
        "450-452 463 472 478 721-723",
        "[] or a count for an unknown state",
        "400 with the five states",
        "An unknown state is refused, such as `email` in `/jobs/email/0..3`.",
        refused(400, "^state: expected one of inactive, complete, active, failed, delayed"),
    ),
    # --- search
    Mend(
        "349",
        "finds a job that was removed when it was complete",
        "does not find it",
        "A removed job is not found.",
        body([]),
    ),
    Mend(
        "638-639",
        "finds words that sound alike: night for nite and nyt",
        "finds only the word itself",
        "Words that only sound alike are not found.",
        lambda said, record: said._replace(body=["9"] if "nite" in record.target else []),
    ),
    Mend(
        "682",
        "all ids",
        "as many ids as requested",
        "A search has a `limit`.",
        body(["11"]),
    ),
    Mend(
        "689",
        "finds words outside the search keys after the job is updated",
        "does not find them",
        "Only the paths in `searchKeys` are indexed.",
        body([]),
    ),
    Mend(
        "691",
        "finds nothing after another process has updated the job",
        "finds the job",
        "A job is found until it is removed.",
        body(["14"]),
    ),
    # --- PUT state and priority
    Mend(
        "718 726 730 732",
        "any text becomes the state",
        "400 with the five states",
        "An unknown state is refused.",
        refused(400, "^state: expected one of inactive, complete, active, failed, delayed"),
    ),
    Mend(
        "719 727 731",
        "shows the unknown state",
        "the job is still inactive",
        "It was refused above.",
        changed(state="inactive"),
    ),
    Mend(
        "720",
        "the job is not counted",
        "the job is still inactive",
        "It was refused above.",
        changed(inactiveCount=1),
    ),
    Mend(
        "724 733",
        "shows the unknown state",
        "the job is still inactive",
        "It was refused above.",
        lambda said, _: said._replace(body=[job | {"state": "inactive"} for job in said.body]),
    ),
    Mend(
        "753 755",
        '200 {"error":"invalid priority"}: names are refused',
        '{"message":"updated priority"}',
        "A priority is a number or a name.",
        body({"message": "updated priority"}),
    ),
    Mend(
        "754",
        "the previous priority",
        "the new priority",
        "A priority is a number or a name.",
        changed(priority=-10),
    ),
    Mend(
        "756 758 760 762 764",
        "the result of parseInt",
        "the previous priority",
        "`low` was set above; an invalid priority is refused.",
        changed(priority=10),
    ),
    Mend(
        "757 759 761 763 769 771 773 775 777 779",
        "200, with an error or the result of parseInt",
        "400",
        "A priority is a number or a name.",
        refused(400, "^priority: expected an integer or one of low, normal, medium, high, "),
    ),
    Mend(
        "767",
        "200, with the result of parseInt",
        "400 with the bounds of a number",
        "A priority is a number that JSON readers keep exactly.",
        refused(
            400, "^priority: expected an integer from -9007199254740991 to 9007199254740991, or one"
        ),
    ),
    Mend(
        "768 770 772 774 776 778 780",
        "the result of parseInt",
        "the previous priority",
        "It was refused above.",
        changed(priority=999_999_999_999),
    ),
    Mend(
        "783",
        '200 {"error":"invalid priority"}',
        "404: the priority is valid, the job does not exist",
        "A priority is a number or a name; a missing job is 404.",
        gone,
    ),
    # --- HTTP
    Mend(
        "829 831 833 835 837 839 841 844 903",
        "OPTIONS returns the methods as text",
        "OPTIONS returns them in `Allow` only",
        "All answers are JSON; OPTIONS never changes anything.",
        EMPTY,
    ),
    Mend(
        "169 739-740 857 861 865-870",
        "404 HTML",
        "405 with `Allow`",
        "A method that a route does not have is 405 with `Allow`.",
        refused(405, "^/.* does not allow [A-Z]+, only [A-Z, ]+$"),
    ),
    Mend(
        "845",
        "404 with the media type of HTML",
        "405 with `Allow` and the media type of JSON",
        "A method that a route does not have is 405 with `Allow`.",
        lambda _, __: Said(405, JSON_TYPE, None),
    ),
    Mend(
        "877-878 883-888 891-892 895-898",
        "404 HTML",
        "406",
        "An `Accept` that excludes JSON is 406.",
        refused(406, "^this API answers application/json only, got Accept: "),
    ),
    Mend(
        "900",
        "304: the tag is a hash of the answer",
        "200: Kue's tag is not one of Ledger's",
        'Reads have `ETag: W/"<position>-<chain>"`; `If-None-Match` with that value is 304.',
        lambda _, __: records()[INDEX[899]].kue._replace(
            body=records()[INDEX[899]].kue.body | {"workTime": "a number"}
        ),
    ),
    Mend(
        "906-916",
        "Kue's own pages and their files",
        "404, until there is a dashboard",
        "`GET /` is reserved for a dashboard of Ledger's own.",
        refused(404, "^no such route: GET /"),
    ),
)
