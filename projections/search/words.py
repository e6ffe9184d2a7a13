"""The words of a text, both of a job's data when it is indexed and of a query.

Both are split by the same rules, so a query finds what was indexed::

    text     "Résumés for tj@learnboost.com, 欢迎张三"
    folded   "resumes for tj@learnboost.com, 欢迎张三"
    words    resum for tj learnboost com 欢 欢迎 迎 迎张 张 张三 三

Letters and digits form words, and everything else separates them: an e-mail address or a URL
is found by each of its parts, and as a whole by all of them.  An English word is reduced to
its stem, unless it contains a digit.  Chinese, Japanese, Korean, Thai, Lao and Khmer have no
spaces between words: every character is a word, and so is every adjacent pair.  So any part
of a text is found without a dictionary, which could split it differently.

No character of a query is an operator.  The time that all this takes is proportional to the
length of the text, whatever it contains.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Final

from snowballstemmer.english_stemmer import EnglishStemmer

# The rest of a longer word, such as an image in base 64, is ignored.
LONGEST_WORD: Final = 64
# Only this many characters of a job's data are indexed: all words of a job must fit into one
# megabyte, which is the limit of PostgreSQL's tsvector.
LONGEST_TEXT: Final = 64 * 1024
# Changes with every change of what this module returns: an index made by another version is
# rebuilt.
VERSION: Final = 1

# Words so frequent that a query rarely means them; they are indexed nevertheless.
STOP_WORDS: Final = frozenset(
    {
        *("a", "an", "and", "are", "as", "at", "be", "by", "can", "for", "from", "have", "if"),
        *("in", "is", "it", "may", "not", "of", "on", "or", "tbd", "that", "the", "this", "to"),
        *("us", "we", "when", "will", "with", "yet", "you", "your"),
    }
)

# Latin letters that are not a letter with an accent, and so have no decomposition.
_PLAIN_LETTERS: Final = {
    "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "\u0131": "i", "ł": "l",
    "ŋ": "n", "þ": "th", "ŧ": "t",
}  # fmt: skip
_ACCENTS: Final = re.compile("[\u0300-\u036f]+")


def _of_category(first: int, last: int, categories: str) -> str:
    """Return the characters of a range whose category begins with one of *categories*."""
    return "".join(
        character
        for character in map(chr, range(first, last))
        if unicodedata.category(character)[0] in categories
    )


# Scripts without spaces between words, except Han, whose blocks contain nothing else.
_UNSPACED_BLOCKS: Final = (
    (0x0E00, 0x0F00),  # Thai, Lao
    (0x1100, 0x1200),  # Hangul, as letters
    (0x1780, 0x1800),  # Khmer
    (0x3005, 0x3007),  # 々〆
    (0x3040, 0x3130),  # kana, Bopomofo
    (0x3130, 0x3190),  # Hangul compatibility letters
    (0x31A0, 0x31C0),  # Bopomofo
    (0x31F0, 0x3200),  # kana
    (0xA960, 0xA980),  # old Hangul letters
    (0xD7B0, 0xD800),
    (0x1AFF0, 0x1B170),  # historic kana
)
_HAN_AND_HANGUL: Final = (
    "\u3007\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED: Final = _HAN_AND_HANGUL + "".join(
    _of_category(first, last, "LM") for first, last in _UNSPACED_BLOCKS
)
# Vowel signs and similar marks belong to the letter before them.  These blocks contain those
# of the scripts of India and its neighbours.
_MARKED_BLOCKS: Final = ((0x0370, 0x1E00), (0xA000, 0xAC00), (0x11000, 0x12000))
_MARKS: Final = "".join(_of_category(first, last, "M") for first, last in _MARKED_BLOCKS)
_RUNS: Final = re.compile(f"([{_UNSPACED}]+)|((?:(?![{_UNSPACED}])(?:[^\\W_]|[{_MARKS}]))+)")
_ASCII_RUNS: Final = re.compile("[a-z0-9]+")


def words(text: str) -> dict[str, None]:
    """Return the words of *text*, each once, in the order of the text.

    Args:
        text: Any text; only its first ``LONGEST_TEXT`` characters count.
    """
    text = text[:LONGEST_TEXT]
    if text.isascii():
        return dict.fromkeys(map(_stemmed, _ASCII_RUNS.findall(text.lower())))
    found: dict[str, None] = {}
    for unspaced, word in _RUNS.findall(fold(text)):
        if word:
            found[_stemmed(word)] = None
        else:
            found.update(dict.fromkeys(unspaced))
            found.update(dict.fromkeys(_pairs(unspaced)))
    return found


def asked(query: str) -> tuple[str, ...]:
    """Return the words that a job must have, all of them, to be found by *query*.

    Stop words count only if there are no others.  No words at all mean that the query asks for
    nothing.
    """
    needed: dict[str, None] = {}
    stops: dict[str, None] = {}
    for unspaced, word in _RUNS.findall(fold(query[:LONGEST_TEXT])):
        if word:
            (stops if word in STOP_WORDS else needed)[_stemmed(word)] = None
        elif len(unspaced) == 1:
            needed[unspaced] = None
        else:
            # Its pairs are more selective than its characters.
            needed.update(dict.fromkeys(_pairs(unspaced)))
    return tuple(needed or stops)


def fold(text: str) -> str:
    """Return *text* without differences of case, width and accent."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _ACCENTS.sub("", "".join(map(_unaccented, folded)))


@lru_cache(maxsize=4096)
def _unaccented(character: str) -> str:
    """Return a Latin or Greek letter without its accents, and any other character unchanged."""
    if character.isascii():
        return character
    base = unicodedata.normalize("NFD", character)[0]
    base = _PLAIN_LETTERS.get(base, base)
    if base.isascii() or unicodedata.name(base, "").startswith("GREEK"):
        return base
    return character


@lru_cache(maxsize=32_768)
def _stemmed(word: str) -> str:
    """Return the stem of an English word; a word that may be an identifier stays whole."""
    word = word[:LONGEST_WORD]
    if word.isascii() and word.isalpha():
        # A new stemmer each time: two threads cannot share one.
        stemmed: str = EnglishStemmer().stemWord(word)
        return stemmed
    return word


def _pairs(run: str) -> Iterator[str]:
    return map("".join, pairwise(run))


def in_ascii(words_: Iterable[str]) -> str:
    """Return words in one line, each as a token that no tokenizer splits."""
    return " ".join(word if word.isascii() else f"_{word.encode().hex()}" for word in words_)
