"""Clients of the server, which remember every answer and compare later answers with it."""

import time
from collections import Counter
from http.client import HTTPException
from random import Random
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from tests.integration.servers import Answer, Asker

LONGEST_MS: Final = 80
# Many of its workers may be lost during a job.
ATTEMPTS: Final = 20
_TTL_MS: Final = 2_000
_LONGEST_DELAY_MS: Final = 2_000
# Two cores also run all the programs: clients leave them time.
_LONGEST_PAUSE_S: Final = 0.4
# As the server asks, but sooner: nearer to the moment at which it is back.
_AGAIN_AFTER_S: Final = 0.2
_SEARCH_EVERY: Final = 10


class Asked(NamedTuple):
    """A job that a client asked for, with its id once the server has said it."""

    type: str
    data: dict[str, Any]
    job_id: int | None


class Client:
    """A client that creates jobs and repeats each request until it is acknowledged.

    Args:
        number: Its number, from 1.
        port: Port of the server.
        chance: What is random in it.
    """

    def __init__(self, number: int, port: int, chance: Random) -> None:
        # By key, which is in the data of the job.
        self.asked: dict[str, Asked] = {}
        # The states that a job of its own may be in, by id: more than one where a request was
        # never answered.
        self.states: dict[int, frozenset[str]] = {}
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        self.longest_wait_s = 0.0
        self._number = number
        self._port = port
        self._chance = chance
        self._asker = Asker(port)
        self._own: list[int] = []

    def step(self) -> None:
        """Create a job, and look at it or change it."""
        key = f"c{self._number}n{len(self.asked) + 1}"
        kind = self._chance.choice(("chaos", "chaos", "chaos", "count", f"own-{self._number}"))
        if kind == "chaos":
            job_id = self._create(key, kind, {"ms": self._chance.randrange(LONGEST_MS)})
        elif kind == "count":
            job_id = self._create(key, kind, {"text": "one two three"})
        else:
            job_id = self._create(key, kind, {})
            self.states[job_id] = frozenset({"inactive"})
            self._own.append(job_id)
            self._list(kind, job_id)
            self._change()
        self._look(key, job_id)
        time.sleep(self._chance.uniform(0, _LONGEST_PAUSE_S))

    def _create(self, key: str, type_: str, data: dict[str, Any]) -> int:
        data = {"key": key, **data}
        self.asked[key] = Asked(type_, data, None)
        options = {"attempts": ATTEMPTS} if type_ in {"chaos", "count"} else {}
        if type_ == "chaos":
            options |= self._chance.choice(
                ({}, {}, {}, {"ttl": _TTL_MS}, {"delay": self._chance.randrange(_LONGEST_DELAY_MS)})
            )
            options["priority"] = self._chance.choice((-10, 0, 0, 10))
        body = {"type": type_, "data": data, "options": options}
        began_s = time.monotonic()
        may_exist = False
        while True:
            answer = self._ask("POST", "/job", body, key)
            if answer is not None and answer.status == 200:
                break
            if answer is not None and answer.status != 503:
                raise RuntimeError(f"{body} was answered {answer}")
            # Each other 503 says that nothing was recorded.
            may_exist |= answer is None or "unknown" in answer.json["error"]
            time.sleep(_AGAIN_AFTER_S)
        self.longest_wait_s = max(self.longest_wait_s, time.monotonic() - began_s)
        job_id = int(answer.json["id"])
        self.asked[key] = Asked(type_, data, job_id)
        if answer.json.get("existed") and not may_exist:
            self.faults.append(f"{key} existed, although each answer before said it was refused")
        return job_id

    def _change(self) -> None:
        """Move the newest job of its own on, or remove the oldest."""
        job_id, state = self._own[-1], "complete"
        if len(self._own) > 3:
            job_id, state = self._own.pop(0), "removed"
        method, path = ("DELETE", "") if state == "removed" else ("PUT", f"/state/{state}")
        # From here on it may be so, from the answer on it must.
        before = self.states[job_id]
        self.states[job_id] |= {state}
        answer = self._ask(method, f"/job/{job_id}{path}")
        if answer is None or "unknown" in str(answer.json):
            return
        self.states[job_id] = frozenset({state}) if answer.status == 200 else before

    def _list(self, type_: str, job_id: int) -> None:
        """Read a list and a count of jobs that only this client changes."""
        listed = self._ask("GET", f"/jobs/{type_}/inactive/0..9999")
        shown = [job["id"] for job in listed.json] if listed and listed.status == 200 else None
        if shown is not None and str(job_id) not in shown:
            self.faults.append(f"job {job_id} is not in the list of its type")
        counted = self._ask("GET", f"/jobs/{type_}/inactive/stats")
        if counted is not None and counted.status == 200 and not counted.json["count"]:
            self.faults.append(f"job {job_id} is not counted")

    def _look(self, key: str, job_id: int) -> None:
        """Read what was just created: whatever happens, it is there."""
        seen = self._ask("GET", f"/job/{job_id}")
        if seen is not None and seen.status == 200 and seen.json["data"] != self.asked[key].data:
            self.faults.append(f"{key} is {seen.json}")
        for path in ("/stats", "/jobs/0..9/desc", f"/job/{job_id}/events"):
            self._ask("GET", path)
        if len(self.asked) % _SEARCH_EVERY == 0:
            found = self._ask("GET", f"/job/search?q={quote(key)}")
            if found is not None and found.status == 200 and str(job_id) not in found.json:
                self.faults.append(f"a search for {key} found {found.json}, and not {job_id}")

    def _ask(self, method: str, path: str, body: object = None, key: str = "") -> Answer | None:
        """Return the answer, or None if there is none."""
        headers = {"Idempotency-Key": key} if key else {}
        try:
            answer = self._asker.ask(method, path, body, headers)
        except (OSError, HTTPException) as error:
            self.answers["none in time" if isinstance(error, TimeoutError) else "none"] += 1
            self._asker.connection.close()
            return None
        self.answers[str(answer.status)] += 1
        if answer.status not in {200, 503}:
            self.faults.append(f"{method} {path} {body} was answered {answer}")
        return answer
