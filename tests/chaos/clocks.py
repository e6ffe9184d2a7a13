"""Clocks of machines, which programs read through libfaketime, and which are set while they run."""

import importlib.util
from pathlib import Path
from types import MappingProxyType
from typing import Final

# Programs look after this many seconds whether their clock was set.
_LOOK_EVERY_S: Final = 1


def _library() -> str:
    spec = importlib.util.find_spec("libfaketime")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("libfaketime is not installed; run `make .venv/.dev`")
    path = Path(spec.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    if not path.exists():
        raise FileNotFoundError(f"expected libfaketime's library in {path}")
    return str(path)


class MachineClock:
    """The clock of one machine: real time, and an offset.

    Args:
        path: A file that holds the offset; programs of the machine read it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0)
        # Durations are measured by the monotonic clock, which nobody can set.  The times of
        # files are the real ones: the library would show the offset of now for all of them.
        self.environment = MappingProxyType(
            {
                "LD_PRELOAD": _library(),
                "FAKETIME_TIMESTAMP_FILE": str(path),
                "FAKETIME_CACHE_DURATION": str(_LOOK_EVERY_S),
                "DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
                # It would leave files in /dev/shm for each killed program.
                "FAKETIME_DISABLE_SHM": "1",
            }
        )

    def set(self, off_by_s: int) -> None:
        """Set the clock to real time and *off_by_s* seconds, which may be negative."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{off_by_s:+d}s\n")
        # Whoever runs the program, such as PostgreSQL's own user, may read it.
        new.chmod(0o644)
        new.replace(self._path)
