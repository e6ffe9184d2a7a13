"""Pages in a headless Chromium in which chosen host names resolve to this machine.

``python -m tests.browser.chromium`` fails, and says what to install, if there is no Chromium.
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
    # Chromium has no sandbox for root, and the tests open only their own pages.
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
    """Return the path of Chromium, or None if there is none."""
    given = os.environ.get(VARIABLE)
    found = [shutil.which(name) for name in ((given,) if given else _COMMANDS)]
    return next((path for path in found if path is not None), None)


@contextmanager
def page(chromium: str, url: str, folder: Path, *names: str) -> Iterator[None]:
    """Open *url* in a new browser until the block ends.

    Args:
        chromium: Path of the browser.
        url: URL of the page.
        folder: Directory for the browser's files and its log.
        names: Host names that resolve to 127.0.0.1 in addition to the usual ones.
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
    """Kill a browser and its descendants, and return when they have ended."""
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
