"""Find the JUnit document in a Job's output, and reduce it to what a report needs.

pytest writes it with ``--junitxml=/dev/stdout`` between its other lines.
https://docs.pytest.org/en/stable/how-to/output.html#creating-junitxml-format-files
"""

from __future__ import annotations

import re
from typing import Any

from vcci_ops.domain.signatures import redact

CASES = 1000
"""Cases that are kept; those that did not pass come first."""
_MESSAGE = 1000
_RANK = {"failed": 0, "error": 0, "skipped": 1, "passed": 2}


def document_of(output: str) -> tuple[str, str] | None:
    """Return the last JUnit document of an output, and the output without it; None when there is none."""
    for opening, closing in (("<testsuites", "</testsuites>"), ("<testsuite", "</testsuite>")):
        begin, end = output.rfind(opening), output.rfind(closing)
        if 0 <= begin < end:
            end += len(closing)
            before = re.sub(r"<\?xml[^>]*\?>\s*\Z", "", output[:begin])
            return output[begin:end], before + output[end:]
    return None


def read_junit(document: str) -> dict[str, Any] | None:
    """Return tests, failures, errors, skipped, seconds and cases of a document; None when it cannot be read.

    :param document: XML; one that declares entities is not read.
    """
    from junitparser import JUnitXml, JUnitXmlError  # costs a tenth of a second

    if "<!" in re.sub(r"<!\[CDATA\[.*?\]\]>|<!--.*?-->", "", document, flags=re.DOTALL):
        return None
    try:
        parsed = JUnitXml.fromstring(document.encode())
        suites = list(parsed) if isinstance(parsed, JUnitXml) else [parsed]
        cases = [_case(case) for suite in suites for case in suite]
        seconds = sum(float(suite.time or 0) for suite in suites)
    except (JUnitXmlError, SyntaxError, ValueError, TypeError):
        return None
    count = {name: sum(case["outcome"] == name for case in cases) for name in _RANK}
    return {
        "tests": len(cases),
        "failures": count["failed"],
        "errors": count["error"],
        "skipped": count["skipped"],
        "seconds": round(seconds, 3),
        "cases": sorted(cases, key=lambda case: _RANK[case["outcome"]])[:CASES],
    }


def _case(case: Any) -> dict[str, str]:
    from junitparser import Error, Failure, Skipped

    outcome, message = "passed", ""
    for result in case.result:
        kind = {Failure: "failed", Error: "error", Skipped: "skipped"}.get(type(result))
        if kind and _RANK[kind] <= _RANK[outcome]:
            outcome, message = kind, str(result.message or result.text or "")
    name = f"{case.classname}::{case.name}" if case.classname else str(case.name)
    return {"name": name[:300], "outcome": outcome, "message": redact(message)[:_MESSAGE]}


def told(junit: dict[str, Any]) -> str:
    """Say in a sentence what failed."""
    bad = [case for case in junit["cases"] if case["outcome"] in ("failed", "error")]
    names = "; ".join(f"{case['name']}: {(case['message'].splitlines() or [''])[0]}" for case in bad[:5])
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    return f"{len(bad)} of {junit['tests']} tests failed: {names}{more}"
