"""The chaos test as a command: `python -m tests.chaos --database postgres --seconds 600`."""

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final, get_args

import click

from tests.chaos.run import DISKS, Database, run

DISK_MIB: Final = 768
# Where the disks are, once they are mounted.
_FOLDER: Final = "LEDGER_TEST_CHAOS_FOLDER"


@click.command("python -m tests.chaos")
@click.option("--database", type=click.Choice(get_args(Database)), default="sqlite")
@click.option("--seconds", type=float, default=600.0, help="How long things happen.")
@click.option("--seed", type=int, help="What happens, and when; a similar run, not the same one.")
@click.option("--keep", is_flag=True, help="Keep the logs, also if everything holds.")
def main(database: Database, seconds: float, seed: int | None, keep: bool) -> None:  # noqa: FBT001 - an option
    """Break an installation of Ledger in many ways at the same time, and check what it says.

    Its disks are in memory, and only its own processes see them.  It prints what happened, and
    exits with 1 if something does not hold.
    """
    if _FOLDER not in os.environ:
        sys.exit(_with_disks(keep=keep))
    seed = secrets.randbits(32) if seed is None else seed
    click.echo(f"--seed {seed} leads to a similar run", err=True)
    figures = run(
        database,
        Path(os.environ[_FOLDER]),
        seconds=seconds,
        chance=Random(seed),
        tell=lambda line: click.echo(line, err=True),
    )
    click.echo("\n".join(figures.lines()))
    if figures.faults:
        _keep_disks(Path(os.environ[_FOLDER]))
        sys.exit(1)


def _keep_disks(folder: Path) -> None:
    """Copy what is on the disks, which end with the last process that sees them."""
    for name in DISKS:
        if (folder / name).is_mount():
            shutil.copytree(folder / name, folder / f"{name}-kept", symlinks=True)


def _mounting(folder: Path, command: Sequence[str]) -> list[str] | None:
    """Return the command that runs another where the disks are mounted; None if none can be."""
    apart = ["unshare", "--mount", "--propagation", "private"]
    run = shlex.join(command)
    if os.getuid() != 0:
        # Where the kernel lets users do that: root of a namespace mounts, and then is who it was.
        apart.append("--map-root-user")
        run = f"unshare --map-user={os.getuid()} --map-group={os.getgid()} {run}"
    mount = " && ".join(
        f"mount -t tmpfs -o size={DISK_MIB}m,mode=0777 chaos {shlex.quote(str(folder / name))}"
        for name in DISKS
    )
    try:
        subprocess.run([*apart, "sh", "-c", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [*apart, "sh", "-c", f"{mount} && exec {run}"]


def _with_disks(*, keep: bool) -> int:
    """Run this command again where its disks are mounted; return its exit code."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-chaos-"))
    # PostgreSQL may run as another user, who must be let in.
    folder.chmod(0o755)
    for name in DISKS:
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    again = [sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
    mounting = _mounting(folder, again)
    if mounting is None:
        click.echo("no file system can be mounted here, so no disk will be full", err=True)
    done = subprocess.run(mounting or again, env=os.environ | {_FOLDER: str(folder)}, check=False)
    if done.returncode == 0 and not keep:
        shutil.rmtree(folder)
    else:
        click.echo(f"the logs are in {folder}", err=True)
    return done.returncode


if __name__ == "__main__":
    main()
