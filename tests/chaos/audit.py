"""What must hold at the end: all that was acknowledged, once, and nothing else."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from ledger.processes.composition import System
from tests.builders import rows, verified
from tests.chaos.clients import Client
from tests.integration.test_chaos import RULED, overlaps, recorded, stretches, unfinished

# The types that have handlers.
ENDING: Final = frozenset({"chaos", "count"})
_SHOWN: Final = 5


def faults(system: System, folder: Path, clients: Iterable[Client]) -> list[str]:
    """Return what does not hold, in words.

    Args:
        system: The ledger.
        folder: Where the application and the producer have written their files.
        clients: The clients of the server.
    """
    clients = list(clients)
    jobs = {row["id"]: row for row in rows(system, "SELECT * FROM ledger_jobs")}
    created = rows(
        system,
        "SELECT job_id, content FROM ledger_events WHERE kind = 'created' ORDER BY position",
    )
    by_key: defaultdict[str, list[int]] = defaultdict(list)
    for row in created:
        by_key[json.loads(row["content"])["key"]].append(row["job_id"])
    found = [
        *(fault for client in clients for fault in client.faults),
        *_told(by_key, clients),
        *_moved(jobs, clients),
        *_produced(by_key, folder),
        *_attempts(system, folder),
        *_shown(
            "stuck",
            (
                f"job {job_id}, {job['type']}, {job['state']}"
                for job_id, job in jobs.items()
                if job["type"] in ENDING and job["state"] not in {"complete", "failed"}
            ),
        ),
    ]
    report = verified(system)
    found += [f"verify: {difference}" for difference in report.differences]
    return found


def _shown(what: str, found: Iterable[object]) -> list[str]:
    listed = [str(each) for each in found]
    more = "" if len(listed) <= _SHOWN else f" and {len(listed) - _SHOWN} more"
    return [f"{what}: {', '.join(listed[:_SHOWN])}{more}"] if listed else []


def _told(by_key: dict[str, list[int]], clients: Iterable[Client]) -> list[str]:
    """Compare what clients were told about jobs that they asked for."""
    asked = {key: each for client in clients for key, each in client.asked.items()}
    return [
        *_shown("lost", (key for key, each in asked.items() if each.job_id and key not in by_key)),
        *_shown("double", (key for key in asked if len(by_key.get(key, ())) > 1)),
        *_shown(
            "told another id",
            (
                key
                for key, each in asked.items()
                if each.job_id and by_key.get(key, [0])[:1] != [each.job_id]
            ),
        ),
        *_shown("of nobody", (key for key in by_key if key[0] == "c" and key not in asked)),
    ]


def _moved(jobs: dict[int, dict[str, Any]], clients: Iterable[Client]) -> list[str]:
    """Compare the states of jobs that only clients move."""
    return _shown(
        "in another state",
        (
            f"job {job_id} is {state} and not {'/'.join(sorted(states))}"
            for client in clients
            for job_id, states in client.states.items()
            if (state := jobs.get(job_id, {"state": "removed"})["state"]) not in states
        ),
    )


def _produced(by_key: dict[str, list[int]], folder: Path) -> list[str]:
    """Compare what the producer was told."""
    asked: dict[str, int] = {}
    told: dict[str, str] = {}
    for line in (folder / "produced").read_text().splitlines():
        what, number, *count = line.split()
        if what == "asks":
            asked[number] = int(count[0])
        else:
            told[number] = what
    made = Counter(key.partition("n")[0] for key in by_key if key[0] == "p")
    expected = {"created": {1}, "refused": {0}}
    return [
        *_shown(
            "produced otherwise than told",
            (
                f"{made[number]} of {count} jobs of {number}, {told.get(number)}"
                for number, count in asked.items()
                if made[number] / count not in expected.get(told.get(number, ""), {0, 1})
            ),
        ),
        *_shown("produced by nobody", (number for number in made if number not in asked)),
        *_shown(
            "produced twice",
            (key for key, ids in by_key.items() if key[0] == "p" and len(ids) > 1),
        ),
    ]


def _attempts(system: System, folder: Path) -> list[str]:
    """Compare attempts that handlers made with those that the ledger knows."""
    try:
        made, known = stretches(folder), recorded(system)
    except AssertionError as error:
        return [f"journal: {error}"]
    ruled = {key for key, one in known.items() if one.end in RULED}
    heard = {key for key, one in known.items() if one.end in {"completed", "error"}}
    open_ends = {key for key in made if made[key].end_ns is None}
    return [
        *_shown("jobs that did not end as they should", unfinished(system, known)),
        *_shown("attempts at once", overlaps(made, known)),
        *_shown(
            "attempts of no worker",
            (key for key in made if key not in known or made[key].pid != known[key].pid),
        ),
        *_shown("never made", (key for key in known if key not in made and key not in ruled)),
        *_shown("broken off", (key for key in open_ends if key not in ruled)),
        *_shown("without all their lines", (key for key in heard if known[key].lines != 2)),
    ]
