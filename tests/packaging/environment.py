"""Virtual environments that contain a built wheel and only its requirements."""

import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.integration.servers import DEADLINE_S, surroundings

_SCRIPT: Final = """\
#!{python}
import sys
from {module} import {function}
sys.exit({function}())
"""


class Environment(NamedTuple):
    """A virtual environment.

    Attributes:
        folder: Its directory.
    """

    folder: Path

    @property
    def site(self) -> Path:
        """The directory of its packages."""
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def tool(self, name: str) -> str:
        """Return the path of a command."""
        return str(self.folder / "bin" / name)

    def run(self, tool: str, *arguments: str, cwd: Path, **variables: str) -> str:
        """Run a command that must succeed, in *cwd*, and return what it prints."""
        done = subprocess.run(
            [self.tool(tool), *arguments],
            cwd=cwd,
            env=surroundings(cwd, **variables),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{done.args}: {done}"
        return done.stdout


def create(folder: Path, wheel: Path, *, extra: str = "") -> Environment:
    """Create an environment with a wheel and its requirements.

    pip installs the wheel.  The requirements are linked, file by file, from the environment
    that runs the tests: nothing is downloaded, and the environment contains neither the
    checkout nor packages that are not declared as dependencies.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    environment = Environment(folder)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", environment.tool("python")),
            *("--quiet", "--disable-pip-version-check"),
            *("install", "--no-index", "--no-deps", str(wheel)),
        ],
        check=True,
    )
    (metadata,) = environment.site.glob("*.dist-info")
    for required in _required(Distribution.at(metadata), extra):
        _link(required, environment)
    return environment


def _required(installed: Distribution, extra: str) -> Iterable[Distribution]:
    """Return the direct and indirect requirements of a distribution with an extra."""
    found: dict[str, Distribution] = {}
    wanted = list(_requirements(installed, {extra}))
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name not in found or requirement.extras:
            found[name] = distribution(requirement.name)
            wanted += _requirements(found[name], requirement.extras)
    return found.values()


def _requirements(of: Distribution, extras: set[str]) -> Iterator[Requirement]:
    for text in of.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield requirement


def _link(required: Distribution, environment: Environment) -> None:
    assert required.files is not None
    names = {file.parts[0] for file in required.files} - {"..", "__pycache__"}
    for name in names:
        (environment.site / name).symlink_to(str(required.locate_file(name)))
    for entry in required.entry_points.select(group="console_scripts"):
        script = Path(environment.tool(entry.name))
        python = environment.tool("python")
        script.write_text(_SCRIPT.format(python=python, module=entry.module, function=entry.attr))
        script.chmod(0o755)
