"""Count the words of text files: a small application that shows all of a job's life.

    python examples/words.py README.md docs      # these files, and those in these folders
    python examples/words.py                     # sample files of its own

A job a file, then one that adds them up.  The disk is said to be flaky: every fifth
file cannot be read at first, and its job asks to be tried again in a moment.  A file
that is no UTF-8 fails for good.  It all goes to the ledger that LEDGER_DATABASE_URL
names, or to ledger.db in the working directory; look around there afterwards.

It works its jobs off itself.  In earnest, another process would, or many:
``ledger work examples.words:queue --processes 4``.
"""

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import ledger

SUFFIXES: Final = {".md", ".rst", ".txt"}
WORD: Final = re.compile(r"\w+")
MOST_COMMON: Final = 5
EVERY_FIFTH: Final = 5

queue = ledger.connect(actor="words")


@queue.process("words", concurrency=4)
def count_words(job: ledger.RunningJob) -> dict[str, Any]:
    """Count the words of a file."""
    lines = read_lines(job)
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines, start=1):
        counts.update(WORD.findall(line.lower()))
        # Cheap enough for every line; the ledger keeps the newest.
        job.progress(number, len(lines))
    job.log("%d words, %d of them different", counts.total(), len(counts))
    return {"words": counts.total(), "common": dict(counts.most_common(MOST_COMMON))}


def read_lines(job: ledger.RunningJob) -> list[str]:
    """Return the lines of the job's file, unless the disk is not in the mood."""
    path = Path(job.data["path"])
    if job.data["flaky"] and job.attempt == 1:
        raise ledger.Retry(f"{path.name} could not be read just now", after=300)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        # It will be no better next time, however many attempts are left.
        raise ledger.Fail(f"{path.name} is no text in UTF-8: {error}") from error
    job.log("read %d bytes from %s", path.stat().st_size, path)
    return text.splitlines()


@queue.process("summary")
def summarize(job: ledger.RunningJob) -> dict[str, Any]:
    """Add up what the other jobs counted."""
    counted = [queue.get(job_id) for job_id in job.data["jobs"]]
    results = [one.result for one in counted if one.state == "complete"]
    common: Counter[str] = Counter()
    for result in results:
        common.update(result["common"])
    return {
        "files": len(results),
        "words": sum(result["words"] for result in results),
        "common": dict(common.most_common(MOST_COMMON)),
    }


def main(arguments: Sequence[str]) -> None:
    """Create the jobs, work them off, and tell what came of it."""
    with tempfile.TemporaryDirectory(prefix="words-") as samples:
        files = sorted(found(arguments) if arguments else sample_files(Path(samples)))
        if not files:
            sys.exit(f"there is no file that ends with {', '.join(sorted(SUFFIXES))} there")
        jobs = queue.create_many(
            {
                "type": "words",
                "data": {"path": str(file), "flaky": number % EVERY_FIFTH == 0},
                "attempts": 3,
            }
            for number, file in enumerate(files, start=1)
        )
        print(f"{len(jobs)} jobs created; this process does them")
        # Nobody else need run: it also makes sure that who waits is tried again.
        worker = ledger.Worker(queue, sweep=True)
        thread = worker.start()
        failed = [job for job in jobs if not succeeds(job)]
        data = {"jobs": [job.id for job in jobs]}
        summary = queue.create("summary", data, priority="high")
        result = summary.wait()
        worker.stop()
        thread.join()
    common = ", ".join(f"{word} ({number})" for word, number in result["common"].items())
    print(f"{result['words']} words in {result['files']} files; most often {common}")
    for job in failed:
        print(f"job {job.id} failed: {Path(job.data['path']).name}")
    print(f"""
Look at them:
  ledger jobs                          all jobs, newest first
  ledger show {(failed or [summary])[0].id:<24} one of them, with its error and log
  ledger events --job {jobs[-1].id:<16} all that happened to one
  ledger verify                        whether all of this is still true
  ledger serve                         the same over HTTP: localhost:3000/jobs/0..9/desc""")


def succeeds(job: ledger.Job) -> bool:
    """Wait for a job, and return whether it is complete."""
    try:
        job.wait()
    except ledger.JobFailed:
        return False
    return True


def found(arguments: Sequence[str]) -> Iterator[Path]:
    """Yield the text files that are named, and those in folders that are."""
    for argument in arguments:
        path = Path(argument)
        if not path.exists():
            sys.exit(f"there is no {path}")
        inside = path.rglob("*") if path.is_dir() else [path]
        yield from (each for each in inside if each.is_file() and each.suffix in SUFFIXES)


def sample_files(folder: Path) -> Iterator[Path]:
    """Write some files to count, one of them unreadable."""
    for number in range(1, 12):
        path = folder / f"sample-{number:02}.txt"
        path.write_text("the quick brown fox jumps over the lazy dog\n" * number * 20)
        yield path
    path = folder / "sample-latin-1.txt"
    path.write_bytes("Grüße aus der Vergangenheit\n".encode("latin-1"))
    yield path


if __name__ == "__main__":
    main(sys.argv[1:])
