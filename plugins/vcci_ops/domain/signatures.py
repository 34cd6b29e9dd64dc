"""Error lines of logs, and what makes two of them the same: the signature.

A signature is a line without what changes from one event to the next: times, ids, numbers, quoted values.
Everything works on bytes and in chunks; only a line that looks new is decoded. Secrets are masked before
anything is kept.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

SIGNATURE_LENGTH = 200
SAMPLE_LENGTH = 300
LINE_LENGTH = 1000
"""Bytes of a plain line that its signature is made of."""
_HELD_LENGTH = 1 << 18
"""Bytes without a line break that are kept waiting for one."""
_CACHE_SIZE = 5000
_DIGITS = b"0123456789"

_LOOKED_AT = 4 * LINE_LENGTH
"""Characters in which secrets are looked for before a line is cut: a cut may take away what shows one."""
_PASSES = 4
"""How often a text is gone through at most: what one masking leaves may show another secret."""

_QUOTED = r"""(?:\\"(?:[^"\\]|\\(?!"))*(?:\\"|")?|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)"""
_VALUE = rf"(?:{_QUOTED}[^\s,;&)}}\]]*|[^\s,;&)}}\]]+)"
_ASSIGNED = r"""(?:\\?["'])?\s*(?:=>|[:=])\s*"""
_SHORT_KEY = r"(?:(?:(?<![a-z])|pg|db|user|my|redis|smtp|admin|root)pass|(?-i:(?<=[a-z])Pass))\d*"
_KEY = (
    r"(?:passw(?:or)?d|passphrase|pwd|secret|token|credentials?|session[_-]?id|cookie|"
    r"(?:api|access|account|shared|private|signing|encryption|master|auth|license|storage)[_-]?key)[\w-]{0,40}"
)
_NO_PORT = r"""(?!\d{1,5}(?:[\s/?#,;|<>"')\]]|$))"""
_REDACTIONS: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    (
        ("authorization",),
        re.compile(
            r"""(?i)(authorization(?:\\?["'])?\s*[:=]\s*(?:\\?["'])?)"""
            r"""(?:(?:bearer|basic|token|digest)\s+)?[^\s"',;\\]+"""
        ),
        r"\1***",
    ),
    (("bearer",), re.compile(r"(?i)\b(bearer)\s+(?!auth)[A-Za-z0-9._~+/=-]{8,}"), r"\1 ***"),
    (("basic",), re.compile(r"(?i:\b(basic))\s+(?![a-z]+(?![\w.~+/=-]))[A-Za-z0-9._~+/=-]{8,}"), r"\1 ***"),
    (
        ("auth",),
        re.compile(r"((?i:\bauth\s+(?:plain|login|xoauth2|cram-md5)\s+))(?=[a-z]*[A-Z0-9+/=])[\w+/=-]{4,}"),
        r"\1***",
    ),
    (
        ("pass", "pwd", "secret", "token", "credential", "session", "cookie", "key"),
        re.compile(rf"(?is)((?:{_KEY}|{_SHORT_KEY}){_ASSIGNED}){_VALUE}"),
        r"\1***",
    ),
    (("sig",), re.compile(rf"""(?is)((?<![a-z])sig(?:nature)?(?:\\?["']\s*[:=]\s*|=)){_VALUE}"""), r"\1***"),
    (("pass",), re.compile(rf"(?is)(\bpass(?:word|wd|phrase)?\s+(?:is\s+|was\s+)?){_QUOTED}"), r"\1***"),
    (
        ("-pass", "-token", "-secret", "-api-key"),
        re.compile(rf"(?is)(--?(?:pass(?:word|wd|phrase)?|token|secret|api-key)[\w-]{{0,40}}\s+)(?:{_QUOTED}\S*|\S+)"),
        r"\1***",
    ),
    (("://",), re.compile(rf"""(?<=://)(?:(?:[^\s/@:"'\[]+:{_NO_PORT}|:)[^\s"]*|[^\s/"'?#|<>]*)@"""), "***@"),
    (("://",), re.compile(rf"""(?<=://)[^\s/@:"'\[]*:{_NO_PORT}[^\s"'@]+(?=["')\]]*\s*\Z)"""), "***"),
    (
        ("slack",),
        re.compile(r"""(?i)(hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/)[^\s"'<>|]+"""),
        r"\1***",
    ),
    (("private key",), re.compile(r"(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)"), r"\1***"),
    (("eyj",), re.compile(r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?"), "***"),
    (("akia", "asia"), re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}"), "***"),
    (("aiza",), re.compile(r"\bAIza[\w-]{10,}"), "***"),
    (("xox", "xapp-"), re.compile(r"\b(?:xox[a-z]|xapp)-[\w-]+"), "***"),
    (("gh", "glpat"), re.compile(r"\bgh[a-z]_\w{16,}|\bglpat-[\w-]{16,}"), "***"),
    (("k_live_", "k_test_"), re.compile(r"\b[sr]k_(?:live|test)_\w{8,}"), "***"),
    (("sk-",), re.compile(r"(?<![\w-])sk-(?:(?=[\w-]*\d)[\w-]{12,}|[\w-]{20,})"), "***"),
)
"""Words of which one is in any text (in lower case) that the pattern changes, as a look for them spares most
lines the search; what to mask; by what."""

_CHANGING = re.compile(
    r"(?P<uuid>\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b)"
    r"|(?P<time>\d{4}[-/]\d\d[-/]\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|\s?[+-]\d\d:?\d\d)?)?"
    r"|\b\d\d:\d\d:\d\d(?:[.,]\d+)?)"
    r"|(?P<ip>\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b)"
    r"|(?P<pod>(?<=-)[bcdfghjklmnpqrstvwxz2456789]{6,10}-[bcdfghjklmnpqrstvwxz2456789]{5}\b)"
    r"|(?P<str>(?<![\w<])(?:'[^']*'|\"[^\"]*\")(?!\w))"
    r"|(?P<n>\b0x[0-9a-fA-F]+\b|\b[0-9a-fA-F]{8,}\b|\d+(?:\.\d+)*)"
)
_EMAIL = re.compile(r"([\w+-])[\w.+-]{0,63}@([\w-]{1,63}(?:\.[\w-]{1,63}){1,8})")
_HEX = re.compile(rb"[0-9a-fA-F]{8,}(?:-[0-9a-fA-F]{4,12}){0,4}")
_LEADING_TIME = re.compile(r"^[\s\[(]*<time>[\])]*[\s:,-]*")
_MESSAGE_KEYS = ("message", "msg", "event", "error", "log")
_CONTEXT_KEYS = ("level", "levelname", "severity", "logger", "name")


def redact(text: str) -> str:
    """Mask what looks like a credential: ``password=…``, ``Authorization: …``, ``user:pass@host``, keys.

    Give it the whole text and cut afterwards: half a credential is not always known for one.
    """
    for _ in range(_PASSES):
        before, lowered = text, text.lower()
        for words, pattern, by in _REDACTIONS:
            if any(word in lowered for word in words):
                text = pattern.sub(by, text)
        if text == before:
            break
    return text


def signature(text: str) -> str:
    """Return what a line has in common with others of its kind; at most 200 characters.

    >>> signature("2025-11-08 09:00:01,250 ERROR db: timeout on 42 after 30s for 'tenant-7'")
    'ERROR db: timeout on <n> after <n>s for <str>'
    """
    plain = _plain(text)
    if "@" in plain:
        plain = _EMAIL.sub("<email>", plain)
    masked = _CHANGING.sub(_placeholder, plain)
    return " ".join(_LEADING_TIME.sub("", masked).split())[:SIGNATURE_LENGTH].rstrip()


def sample(text: str) -> str:
    """Return a line as an example to show: secrets and addresses masked, at most 300 characters."""
    plain = _plain(text)
    if "@" in plain:
        plain = _EMAIL.sub(r"\1***@\2", plain)
    return " ".join(plain.split())[:SAMPLE_LENGTH]


def _plain(text: str) -> str:
    """Reduce a line to what is looked at, without secrets: they are masked before anything is cut."""
    return redact(_message(text)[:_LOOKED_AT])[:LINE_LENGTH]


def _message(text: str) -> str:
    """Reduce a JSON log line to level, logger and message; any other line stays as it is."""
    if text.startswith("{"):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            return text
        message = _first(data, _MESSAGE_KEYS)
        if message:
            context = dict.fromkeys(str(data[key]) for key in _CONTEXT_KEYS if isinstance(data.get(key), str))
            return " ".join([*context, message])
    return text


def _placeholder(match: re.Match[str]) -> str:
    return f"<{match.lastgroup}>"


def _first(data: Any, keys: Iterable[str]) -> str:
    return next((data[key] for key in keys if isinstance(data.get(key), str) and data[key]), "")


class ErrorLines:
    """Find the lines with one of some markers in a stream of chunks, as ``grep -F`` does.

    Memory is bounded whatever comes: of a line longer than 256 kB only a part is looked at.

    :param markers: literal markers of an error line, e.g. ``(b"ERROR", b"FATAL")``.
    """

    def __init__(self, markers: Sequence[bytes]) -> None:
        self._markers = tuple(marker for marker in markers if marker)
        self._held = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the error lines that this chunk completes, in no particular order, without line breaks."""
        if self._skipping:
            cut = chunk.find(b"\n")
            if cut < 0:
                return []
            chunk, self._skipping = chunk[cut + 1 :], False
        data = self._held + chunk if self._held else chunk
        cut = data.rfind(b"\n") + 1
        self._held = data[cut:]
        found = self._search(data, cut)
        if len(self._held) > _HELD_LENGTH:
            found += self._give_up_on_line()
        return found

    def end(self) -> list[bytes]:
        """Return the last line if it is an error line without a line break."""
        last, self._held = self._held, b""
        return self._search(last, len(last))

    def _give_up_on_line(self) -> list[bytes]:
        found = self._search(self._held, len(self._held))
        self._skipping = bool(found)
        keep = max((len(marker) for marker in self._markers), default=1) - 1
        self._held = b"" if found or not keep else self._held[-keep:]
        return found

    def _search(self, data: bytes, end: int) -> list[bytes]:
        spans: set[tuple[int, int]] = set()
        for marker in self._markers:
            at = data.find(marker, 0, end)
            while at >= 0:
                stop = data.find(b"\n", at, end)
                stop = end if stop < 0 else stop
                spans.add((data.rfind(b"\n", 0, at) + 1, stop))
                at = data.find(marker, stop, end)
        return [data[begin:stop] for begin, stop in spans]


@dataclasses.dataclass(slots=True)
class Kind:
    """The error lines of one signature."""

    signature: str
    sample: str
    count: int = 0
    pods: int = 0
    top_pod: str = ""
    top_count: int = 0

    def __str__(self) -> str:
        """Say it in one line, as the report shows it."""
        pods = f"1 pod ({self.top_pod})" if self.pods == 1 else f"{self.pods} pods (most in {self.top_pod})"
        return f"{self.count}x in {pods}: {self.signature}"


class Tally:
    """Count the error lines of one log by signature, in bounded memory.

    :param most: distinct signatures to keep; lines of further ones are counted together in :attr:`others`.
    """

    def __init__(self, most: int = 200) -> None:
        self.most = most
        self.kinds: dict[str, Kind] = {}
        self._others = Kind("", "")
        self._cache: dict[bytes, Kind] = {}

    @property
    def others(self) -> int:
        """Lines whose signature came when the table was full."""
        return self._others.count

    @property
    def total(self) -> int:
        """All error lines."""
        return sum(kind.count for kind in self.kinds.values()) + self.others

    def add(self, lines: Iterable[bytes]) -> None:
        """Count lines. Those that differ in digits or hexadecimal ids only are known again without decoding them."""
        cache = self._cache
        for line in lines:
            kind = cache.get(line.translate(None, _DIGITS)) or self._known(line) or self._kind(line)
            kind.count += 1

    def forget_lines(self) -> None:
        """Free what only helped counting; call it when a log has been read, before the tally is kept."""
        self._cache = {}

    def _known(self, line: bytes) -> Kind | None:
        """Look again without the ids; remember the line for the next one of its like."""
        if len(line) > LINE_LENGTH:
            return None
        cache = self._cache
        key = _HEX.sub(b"\0", line).translate(None, _DIGITS)
        kind = cache.get(key)
        if kind is None:
            if len(cache) >= _CACHE_SIZE:
                cache.clear()
            kind = cache[key] = cache[line.translate(None, _DIGITS)] = self._kind(line)
        return kind

    def _kind(self, line: bytes) -> Kind:
        text = line[: 1 << 16].decode("utf-8", "replace")
        sign = signature(text)
        kind = self.kinds.get(sign)
        if kind is None:
            if len(self.kinds) >= self.most:
                return self._others
            kind = self.kinds[sign] = Kind(sign, sample(text))
        return kind


class Signatures:
    """The tallies of several pods, put together.

    :param most: distinct signatures to keep.
    """

    def __init__(self, most: int = 200) -> None:
        self.most = most
        self.kinds: dict[str, Kind] = {}
        self.others = 0
        self.pods: set[str] = set()
        """Pods with at least one error line."""

    @property
    def total(self) -> int:
        """All error lines of all pods."""
        return sum(kind.count for kind in self.kinds.values()) + self.others

    def merge(self, pod: str, tally: Tally) -> None:
        """Add what one pod's containers logged; call it once for each pod."""
        if tally.total:
            self.pods.add(pod)
        self.others += tally.others
        for kind in tally.kinds.values():
            mine = self.kinds.get(kind.signature)
            if mine is None:
                if len(self.kinds) >= self.most:
                    self.others += kind.count
                    continue
                mine = self.kinds[kind.signature] = Kind(kind.signature, kind.sample)
            mine.count += kind.count
            mine.pods += 1
            if kind.count > mine.top_count:
                mine.top_pod, mine.top_count = pod, kind.count

    def most_common(self) -> list[Kind]:
        """Return the kinds, most frequent first."""
        return sorted(self.kinds.values(), key=lambda kind: (-kind.count, kind.signature))

    def unseen(self, known: Iterable[str]) -> Iterator[Kind]:
        """Yield the kinds that are not among the known signatures, most frequent first."""
        seen = set(known)
        return (kind for kind in self.most_common() if kind.signature not in seen)
