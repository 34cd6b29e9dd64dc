"""How much of a B-tree is waste: exactly by the extension pgstattuple, else by what a new index would take.

The estimate reckons a freshly built index from the number and width of its entries, by the layout of a page
(https://www.postgresql.org/docs/current/btree.html, storage-page-layout.html): header and special space, a line pointer
and a header for each entry, aligned to eight bytes, filled up to the fill factor. Equal entries share one key where
PostgreSQL builds it so (deduplication). Of several columns the differences are taken to be independent, which can only
make the reckoned index larger, and the waste smaller than it is.
"""

from __future__ import annotations

import dataclasses
import math

BLOCK = 8192
_USABLE = BLOCK - 24 - 16
_POINTER, _HEADER, _NULL_BITMAP, _ROW_ADDRESS = 4, 8, 8, 6
_POSTING = BLOCK // 10
"""Bytes that one key with the addresses of its rows may take in a new index."""
EXACT, ESTIMATED = "exact", "estimated"


@dataclasses.dataclass(frozen=True)
class Bloat:
    """What a rebuild would give back.

    :param bytes: of the index that are waste; never negative.
    :param percent: the same of the index's size, 0 to 100.
    :param measured: :data:`EXACT` or :data:`ESTIMATED`.
    """

    bytes: int
    percent: float
    measured: str


@dataclasses.dataclass(frozen=True)
class Entries:
    """What is in an index, by the statistics.

    :param number: of entries; negative: not known.
    :param width: bytes of one entry's data on average; None: no statistics.
    :param nulls: largest share of nulls of its columns, 0 to 1.
    :param different: how many are different.
    :param shared: whether equal entries share a key.
    :param fillfactor: percent.
    """

    number: float
    width: float | None
    nulls: float = 0.0
    different: float | None = None
    shared: bool = False
    fillfactor: int = 90


def estimate(size: int, entries: Entries) -> Bloat | None:
    """Return the waste of an index of this size in bytes; None: the statistics do not say.

    An index of a few pages has no waste worth the name: its last page is never full.
    """
    if entries.width is None or entries.number < 0:
        return None
    return _wasted(size, size - fresh_size(entries), ESTIMATED)


def fresh_size(entries: Entries) -> int:
    """Return how large the index would be if it were new, in bytes."""
    if entries.width is None:
        raise ValueError("the width of the entries is not known")
    key = _aligned(_HEADER + _NULL_BITMAP * math.ceil(entries.nulls) + entries.width)
    each = _each(key, entries)
    leaves = math.ceil(entries.number * each / (_USABLE * entries.fillfactor / 100 - key))
    inner = math.ceil(leaves * (key + _POINTER) / (_USABLE * 0.7)) if leaves > 1 else 0
    return (1 + max(leaves, 1) + inner) * BLOCK


@dataclasses.dataclass(frozen=True)
class Pages:
    """What pgstatindex counted.

    :param density: how full the leaf pages are, in percent; not a number when there is none.
    """

    leaf: int
    density: float
    empty: int
    deleted: int
    fillfactor: int


def exact(size: int, pages: Pages) -> Bloat:
    """Return the waste of an index of this size in bytes by what was counted."""
    filled = 1.0 if math.isnan(pages.density) else min(pages.density / pages.fillfactor, 1.0)
    return _wasted(size, BLOCK * (pages.leaf * (1 - filled) + pages.empty + pages.deleted), EXACT)


def _each(key: float, entries: Entries) -> float:
    """Return the bytes that one row takes in a leaf page."""
    alone = key + _POINTER
    if not entries.shared or not entries.different or entries.number <= entries.different:
        return alone
    most = max((_POSTING - key) / _ROW_ADDRESS, 1)
    rows = min(entries.number / entries.different, most)
    together = (_aligned(key + _ROW_ADDRESS * rows) + _POINTER) / rows
    return min(alone, together)


def _wasted(size: int, wasted: float, measured: str) -> Bloat:
    waste = min(max(int(wasted), 0), size)
    return Bloat(waste, round(100 * waste / size, 1) if size else 0.0, measured)


def _aligned(width: float) -> int:
    return math.ceil(width / 8) * 8
