"""The command line as ``python -m ledger``, run by the Python that the caller chose."""

from ledger.cli import main

main(prog_name="ledger")
