"""An indexer that tests kill: ``python killed_indexer.py URL FOLDER``.

For each line of standard input, the size of a batch in events, it forks a child that indexes,
and prints the child's process id.  The modules are imported before the forks, so a child
starts indexing quickly.
"""

import os
import sys
import time
from pathlib import Path

from ledger.database.url import open_database
from ledger.projections.follower import catch_up
from ledger.projections.search.whoosh.engine import WhooshEngine


def index(url: str, folder: str, batch: int) -> None:
    database = open_database(url, synchronous="OFF")
    engine = WhooshEngine(database, Path(folder))
    while not engine.leadership().held():
        pass
    while True:
        catch_up(database, engine, batch=batch)
        time.sleep(0.001)


def main(url: str, folder: str) -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            index(url, folder, int(line))
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
