"""Open pages in a headless Chromium that knows some names of hostile sites.

``python -m tests.browser.chromium`` tells which Chromium that is, or what to install.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # comes with the package that brings PostgreSQL

from tests.integration.servers import DEADLINE_S, surroundings

VARIABLE: Final = "LEDGER_TEST_CHROMIUM"
_COMMANDS: Final = ("chromium", "chromium-browser", "google-chrome")
MISSING: Final = (
    "the tests of hostile pages need Chromium: install Debian's package (`apt-get install "
    f"chromium`), or set {VARIABLE} to the path of another one"
)

_FLAGS: Final = (
    "--headless",
    # Root has none, and the pages are the tests' own.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
)


def find_chromium() -> str | None:
    """Return the path of Chromium, None if there is none."""
    given = os.environ.get(VARIABLE)
    found = [shutil.which(name) for name in ((given,) if given else _COMMANDS)]
    return next((path for path in found if path is not None), None)


@contextmanager
def page(chromium: str, url: str, folder: Path, *names: str) -> Iterator[None]:
    """Open *url* in a browser of its own, until the block ends.

    Args:
        chromium: Its path.
        url: Of the page.
        folder: Where it may write; its output goes to a file there.
        names: What resolves to 127.0.0.1, beside what always does.
    """
    rules = ", ".join(f"MAP {name} 127.0.0.1" for name in names)
    command = [
        chromium,
        *_FLAGS,
        f"--user-data-dir={folder / 'chromium'}",
        f"--host-resolver-rules={rules}",
        url,
    ]
    output = folder / "chromium.log"
    with output.open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=surroundings(folder), stdout=log, stderr=log
        )
    try:
        yield
    except BaseException as error:
        error.add_note(f"Chromium's output:\n{output.read_text(errors='replace')}")
        raise
    finally:
        _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a browser and all that it started, and return when they are gone."""
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    for each in family:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(DEADLINE_S)
    psutil.wait_procs(family, DEADLINE_S)


if __name__ == "__main__":
    sys.exit(None if find_chromium() else MISSING)
