"""Be ``python -m ledger.cli``: the command, by whichever Python runs this."""

from ledger.cli import main

main(prog_name="ledger")
