"""Runs of wrk against a server; a run with errors gives no result."""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers import Server

CONNECTIONS = 16
PROGRAMS = {"wrk": "wrk"}

# Prints wrk's results as one line of JSON after its own report.
_DONE = """
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"status":%d,"socket":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""

# The jobs of a run are numbered from 1.
_JOB = """
local number = 0
function job()
  number = number + 1
  return '{"type":"email","data":{"title":"welcome email for user ' .. number ..
    '","to":"user' .. number .. '@example.com","template":"welcome"}}'
end
local headers = {["Content-Type"] = "application/json"}
"""

POST_ONE = (
    _JOB
    + """
function request()
  return wrk.format("POST", "/job", headers, job())
end
"""
)

# The array is built once: building it for each request would measure Lua.
POST_ARRAY = (
    _JOB
    + """
local jobs = {}
for i = 1, 100 do jobs[i] = job() end
local body = "[" .. table.concat(jobs, ",") .. "]"
function request()
  return wrk.format("POST", "/job", headers, body)
end
"""
)


def get(path: str) -> str:
    """Return a script that requests *path* repeatedly."""
    return f'function request() return wrk.format("GET", "{path}") end\n'


def get_random_job(jobs: int) -> str:
    """Return a script that requests random jobs."""
    return f"""
math.randomseed(os.time())
function request()
  return wrk.format("GET", "/job/" .. math.random({jobs}))
end
"""


class Run(NamedTuple):
    """The result of a run without errors."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float


def drive(server: Server, script: str, *, seconds: int) -> Run:
    """Run *script* against *server*; return the result.

    Raises:
        RuntimeError: A request was answered with an error or not at all.
    """
    path = server.directory / "drive.lua"
    path.write_text(script + _DONE)
    done = subprocess.run(
        _command(path, seconds, f"http://127.0.0.1:{server.port}"),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    if found["status"] or found["socket"] or not found["requests"]:
        raise RuntimeError(
            f"{server.name}: a run with errors is no figure:\n{done.stdout}\n{server.last_words()}"
        )
    return Run(
        found["requests"],
        found["requests"] / found["duration_us"] * 1e6,
        found["p50_us"] / 1000,
        found["p99_us"] / 1000,
    )


def _command(script: Path, seconds: int, url: str) -> list[str]:
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s"]
    return ["wrk", *options, "-s", str(script), url]
