"""A reference implementation of search in plain Python, which is slow.

It works character by character and on parsed objects, so that it does not repeat a mistake in
the expressions of ``projections/search``.  Both use the same stemmer.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from snowballstemmer.english_stemmer import EnglishStemmer

STOP_WORDS = {
    *("a", "an", "and", "are", "as", "at", "be", "by", "can", "for", "from", "have", "if"),
    *("in", "is", "it", "may", "not", "of", "on", "or", "tbd", "that", "the", "this", "to"),
    *("us", "we", "when", "will", "with", "yet", "you", "your"),
}
UNSPACED_NAMES = (
    "CJK UNIFIED",
    "CJK COMPATIBILITY IDEOGRAPH",
    "HIRAGANA",
    "HENTAIGANA",
    "COMBINING KATAKANA-HIRAGANA",
    "KATAKANA",
    "HANGUL",
    "THAI",
    "LAO",
    "KHMER",
    "BOPOMOFO",
)
HAN_BLOCKS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
MARKED_BLOCKS = ((0x370, 0x1E00), (0xA000, 0xAC00), (0x11000, 0x12000))
LIGATED = {"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ł": "l",
           "ŋ": "n", "þ": "th", "ŧ": "t"}  # fmt: skip


class Indexed(NamedTuple):
    """The data of a live job as JSON, None if it is erased, and the job's search keys."""

    data: str | None
    search_keys: Sequence[str] | None


def matches(jobs: Mapping[int, Indexed], query: str) -> list[int]:
    """Return the ids of the jobs that *query* must find, newest first."""
    needed = words_asked(query)
    if not needed:
        return []
    found = []
    for job_id, (data, keys) in jobs.items():
        if data is not None:
            values = _values(json.loads(data, parse_int=_Number, parse_float=_Number), "", keys)
            if needed <= {word for value in values for word in words_of(value)}:
                found.append(job_id)
    return sorted(found, reverse=True)


class _Number(str):
    """A number as it is written in JSON."""

    __slots__ = ()


def _values(value: Any, path: str, keys: Sequence[str] | None) -> list[str]:
    if isinstance(value, dict):
        return [
            found
            for key, inner in value.items()
            for found in _values(inner, f"{path}.{key}" if path else key, keys)
        ]
    if isinstance(value, list):
        return [found for inner in value for found in _values(inner, path, keys)]
    if value is None:
        return []
    if keys is not None and not any(f"{path}.".startswith(f"{key}.") and path for key in keys):
        return []
    return [{True: "true", False: "false"}.get(value, value)]


def _runs(text: str) -> list[tuple[bool, str]]:
    """Return the runs of letters, each with whether its script is written without spaces."""
    runs: list[tuple[bool, str]] = []
    joined = False
    for character in _folded(text):
        category = unicodedata.category(character)
        unspaced = unicodedata.name(character, "").startswith(UNSPACED_NAMES)
        unspaced = (unspaced and category[0] in "LM") or character in "々〆〇"
        # Tone marks of old Korean, which are in the block of Chinese punctuation.
        unspaced &= character not in "\u302e\u302f"
        # Blocks of Han to which new versions of Unicode add characters.
        unspaced |= any(low <= ord(character) <= high for low, high in HAN_BLOCKS)
        is_mark = category[0] == "M" and any(
            low <= ord(character) < high for low, high in MARKED_BLOCKS
        )
        if not (unspaced or category[0] in "LN" or is_mark):
            joined = False
        elif joined and runs[-1][0] == unspaced:
            runs[-1] = (unspaced, runs[-1][1] + character)
        else:
            runs.append((unspaced, character))
            joined = True
    return runs


def _folded(text: str) -> str:
    text = unicodedata.normalize("NFKC", text)
    text = unicodedata.normalize("NFKC", text.casefold())
    folded = ""
    for character in text:
        if "\u0300" <= character <= "\u036f":
            continue
        first = unicodedata.normalize("NFD", character)[0]
        first = LIGATED.get(first, first)
        is_plain = first.isascii() or unicodedata.name(first, "").startswith("GREEK")
        folded += first if is_plain else character
    return folded


def _stemmed(word: str) -> str:
    word = word[:64]
    return EnglishStemmer().stemWord(word) if word.isascii() and word.isalpha() else word


def words_of(text: str) -> set[str]:
    found = set()
    for unspaced, run in _runs(text):
        if unspaced:
            found |= set(run) | {run[at : at + 2] for at in range(len(run) - 1)}
        else:
            found.add(_stemmed(run))
    return found


def words_asked(query: str) -> set[str]:
    needed, stops = set(), set()
    for unspaced, run in _runs(query):
        if unspaced:
            needed |= {run[at : at + 2] for at in range(len(run) - 1)} or {run}
        elif run in STOP_WORDS:
            stops.add(_stemmed(run))
        else:
            needed.add(_stemmed(run))
    return needed or stops
