"""Names that a person cannot tell apart: by case, by compatibility characters, by look-alike letters.

After Unicode's "skeletons" (https://www.unicode.org/reports/tr39/#Confusable_Detection), with its table of confusable
characters as the package confusable-homoglyphs ships it. Two texts of one skeleton look alike: ``acme``, ``Acme``,
``аcme`` with a Cyrillic а, ``acrne``.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")
_MARK, _FORMAT = "M", "Cf"
"""Categories of characters that stand on others, or are not seen at all."""
_DIRECTION = "\u200e"
"""The table writes it around characters that are written from right to left."""


def skeletons(text: str) -> frozenset[str]:
    """Return what is left of a text when all that looks alike is made the same.

    Two where case matters: a capital I looks like an l, and is an i for whoever compares without case.

    >>> skeletons("Acme-C0rp") & skeletons("аcrne-corp") != frozenset()
    True
    """
    plain = unicodedata.normalize("NFKC", text)
    return frozenset(_reduced(written) for written in {plain, plain.casefold()})


def _reduced(text: str) -> str:
    # Twice: what a digit is made alike to is a capital letter, which has a small one.
    for _ in range(2):
        if not text.isascii():
            spread = unicodedata.normalize("NFD", text)
            seen = (c for c in spread if unicodedata.category(c) != _FORMAT and unicodedata.category(c)[0] != _MARK)
            text = "".join(seen)
        text = text.translate(_alike()).casefold()
    return text


def look_alikes(text: str, known: Iterable[tuple[str, T]]) -> Iterator[T]:
    """Yield what belongs to each known text that looks like this one.

    :param known: texts and what to return for them; may be a stream.
    """
    wanted = skeletons(text)
    return (found for other, found in known if not wanted.isdisjoint(skeletons(other)))


@functools.cache
def _alike() -> dict[int, str]:
    """Return for each character that looks like another the one that stands for both."""
    from confusable_homoglyphs.confusables import confusables_data

    table: Mapping[str, list[Mapping[str, str]]] = confusables_data
    found = {}
    for key, entries in table.items():
        character = key.strip(_DIRECTION)
        if len(character) == 1 and len(entries) == 1:
            target = entries[0]["c"].strip(_DIRECTION)
            if _stands_for_both(target, character, table):
                found[ord(character)] = target
    return found


def _stands_for_both(target: str, character: str, table: Mapping[str, list[Mapping[str, str]]]) -> bool:
    """Whether the target is the representative of the two; the package's table tells no direction.

    The one that others look like, too, is; of a pair that only look like each other, the first in Unicode.
    """
    return len(target) != 1 or len(table.get(target, ())) > 1 or target < character
