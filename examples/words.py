"""Count the words of text files: a small application with progress, retries and failures.

    python examples/words.py README.md docs      # these files, and the text files in folders
    python examples/words.py                     # sample files

It creates a job for each file, then a job that adds up the results.  To show retries, every
fifth file cannot be read at the first attempt, and its job is tried again 300 ms later.  A file
that is not UTF-8 fails permanently.  The jobs are in the ledger that LEDGER_DATABASE_URL names,
by default ledger.db in the working directory, and stay there for ``ledger jobs`` and others.

This program runs its jobs itself.  In production, other processes run them:
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
        # Cheap enough to call for every line; the ledger stores the most recent progress only.
        job.progress(number, len(lines))
    job.log("%d words, %d of them different", counts.total(), len(counts))
    return {"words": counts.total(), "common": dict(counts.most_common(MOST_COMMON))}


def read_lines(job: ledger.RunningJob) -> list[str]:
    """Return the lines of the job's file; fail the first attempt if the file is flaky."""
    path = Path(job.data["path"])
    if job.data["flaky"] and job.attempt == 1:
        raise ledger.Retry(f"{path.name} could not be read just now", after=300)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        # Another attempt would fail too, so do not use the attempts that are left.
        raise ledger.Fail(f"{path.name} is not UTF-8 text: {error}") from error
    job.log("read %d bytes from %s", path.stat().st_size, path)
    return text.splitlines()


@queue.process("summary")
def summarize(job: ledger.RunningJob) -> dict[str, Any]:
    """Add up the results of the other jobs."""
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
    """Create the jobs, run them, and print the result."""
    with tempfile.TemporaryDirectory(prefix="words-") as samples:
        files = sorted(found(arguments) if arguments else sample_files(Path(samples)))
        if not files:
            sys.exit(f"found no files that end with {', '.join(sorted(SUFFIXES))}")
        jobs = queue.create_many(
            {
                "type": "words",
                "data": {"path": str(file), "flaky": number % EVERY_FIFTH == 0},
                "attempts": 3,
            }
            for number, file in enumerate(files, start=1)
        )
        print(f"{len(jobs)} jobs created; running them in this process")
        # With sweep=True, the worker also promotes delayed jobs, so no other process is needed.
        worker = ledger.Worker(queue, sweep=True)
        thread = worker.start()
        failed = [job for job in jobs if not succeeds(job)]
        data = {"jobs": [job.id for job in jobs]}
        summary = queue.create("summary", data, priority="high")
        result = summary.wait()
        worker.stop()
        thread.join()
    common = ", ".join(f"{word} ({number})" for word, number in result["common"].items())
    print(f"{result['words']} words in {result['files']} files; most frequent: {common}")
    for job in failed:
        print(f"job {job.id} failed: {Path(job.data['path']).name}")
    print(f"""
Continue with:
  ledger jobs                          list all jobs, newest first
  ledger show {(failed or [summary])[0].id:<24} show a job with its error and log
  ledger events --job {jobs[-1].id:<16} print the history of a job
  ledger verify                        check the database against its history
  ledger serve                         serve all of it: localhost:3000/jobs/0..9/desc""")


def succeeds(job: ledger.Job) -> bool:
    """Wait for a job, and return whether it is complete."""
    try:
        job.wait()
    except ledger.JobFailed:
        return False
    return True


def found(arguments: Sequence[str]) -> Iterator[Path]:
    """Yield the text files among *arguments*, and those in folders among them."""
    for argument in arguments:
        path = Path(argument)
        if not path.exists():
            sys.exit(f"{path} does not exist")
        inside = path.rglob("*") if path.is_dir() else [path]
        yield from (each for each in inside if each.is_file() and each.suffix in SUFFIXES)


def sample_files(folder: Path) -> Iterator[Path]:
    """Write some files to count; one of them is not UTF-8."""
    for number in range(1, 12):
        path = folder / f"sample-{number:02}.txt"
        path.write_text("the quick brown fox jumps over the lazy dog\n" * number * 20)
        yield path
    path = folder / "sample-latin-1.txt"
    path.write_bytes("Grüße aus der Vergangenheit\n".encode("latin-1"))
    yield path


if __name__ == "__main__":
    main(sys.argv[1:])
