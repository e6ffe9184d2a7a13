"""Warnings about ``LEDGER_*`` variables that were probably meant as settings.

An unknown variable is never an error, because others use the prefix too.  In a container
beside a service called ``ledger``, Kubernetes sets ``LEDGER_PORT=tcp://10.0.0.1:80``,
``LEDGER_SERVICE_HOST`` and more; the accounting program ledger-cli reads ``LEDGER_FILE``.
Only a near miss of a setting, or the former name of one, is worth a warning.

The warnings are log records, or lines that a command prints.  They are not Python warnings,
which would become errors under ``-W error``.
"""

import difflib
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Final

from ledger.processes.settings import PREFIX, SETTINGS

# Variables that Kubernetes sets for each port of a service whose name begins with "ledger".
_KUBERNETES: Final = re.compile(
    PREFIX + r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?"
    r"|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)",
    re.ASCII,
)
_OF_OUR_TESTS: Final = f"{PREFIX}TEST_"
# LEDGER_LEASE is near LEDGER_LEASE_MS (0.77); no variable of ledger-cli is near any setting.
_NEAR: Final = 0.75

_log = logging.getLogger(__name__)
_said: Final[set[str]] = set()


def doubts(environment: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable that was probably meant as a setting."""
    # Compared without the prefix, which would make all names similar.
    names = {setting.variable.removeprefix(PREFIX): setting.variable for setting in SETTINGS}
    renamed = {setting.formerly: setting.variable for setting in SETTINGS if setting.formerly}
    names |= {former.removeprefix(PREFIX): variable for former, variable in renamed.items()}
    found = []
    for variable in sorted(environment):
        if variable in renamed:
            found.append(_of_former(variable, renamed[variable], environment))
        elif _may_be_meant(variable) and variable not in names.values():
            near = difflib.get_close_matches(
                variable.removeprefix(PREFIX), names, n=1, cutoff=_NEAR
            )
            found += [f"{variable}: no such setting; did you mean {names[each]}?" for each in near]
    return found


def _of_former(former: str, variable: str, environment: Mapping[str, str]) -> str:
    used = "it is ignored" if variable in environment else "its value is used"
    return f"{former}: this setting was renamed to {variable}; {used}, please rename it"


def _may_be_meant(variable: str) -> bool:
    return (
        variable.startswith(PREFIX)
        and not variable.startswith(_OF_OUR_TESTS)
        and not _KUBERNETES.fullmatch(variable)
    )


def warn_once(say: Callable[[str], object] = _log.warning) -> None:
    """Call *say* with each warning about this process's environment, once per process."""
    for text in doubts(os.environ):
        if text not in _said:
            _said.add(text)
            say(text)


def leave_to_parent() -> None:
    """Suppress the warnings in a child process of ours: its parent has given them."""
    warn_once(lambda _: None)
