"""What a release says in Slack, the verdict first and short enough for a phone. Everything is mrkdwn.

One thread a run: the headline (:func:`headline`) is edited as the release goes on, each phase has one message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vcci_ops.domain.mrkdwn import code, cut, escape, link
from vcci_ops.domain.plans import SHORT, plan_hash
from vcci_ops.domain.units import duration

EMOJI = {
    "running": ":large_blue_circle:",
    "waiting": ":raised_hand:",
    "rolling-back": ":rewind:",
    "released": ":large_green_circle:",
    "nothing-to-do": ":large_green_circle:",
    "dry-run": ":white_circle:",
    "rejected": ":no_entry:",
    "rolled-back": ":leftwards_arrow_with_hook:",
    "failed": ":red_circle:",
    "rollback-failed": ":rotating_light:",
}
"""State or outcome → sign; what is not named here could not be judged."""
UNJUDGED = ":large_purple_circle:"
VERDICTS = {
    "running": "is being released",
    "waiting": "waits for approval",
    "rolling-back": "is being rolled back",
    "released": "is released",
    "nothing-to-do": "runs already: nothing to do",
    "dry-run": "planned only (dry run), nothing was changed",
    "rejected": "was not approved, nothing was changed",
    "rolled-back": "was ROLLED BACK",
    "failed": "FAILED",
    "rollback-failed": "FAILED and its ROLLBACK FAILED: act now",
    "held": "is out and NOT judged: look at it",
    "superseded": "was changed by somebody else meanwhile: look at it",
    "inconclusive": "is out and could not be judged: too little traffic",
}
VERDICTS_OF_A_ROLLBACK = {
    **VERDICTS,
    "running": "is being brought back",
    "released": "is back",
    "rolled-back": "is back",
    "failed": "could NOT be brought back",
}
CLASSES = {
    "none": "no migration",
    "expand-only": "migrates the schema (only adds to it)",
    "destructive": ":warning: *migrates the schema and DROPS data: a rollback cannot bring it back*",
}
_LONG, _LINE = 1500, 300


def headline(state: str, plan: Mapping[str, Any], *, note: str = "", url: str = "") -> str:
    """Return the first message of the thread: what it is, and how it stands now.

    :param state: a key of :data:`VERDICTS`.
    :param note: one more line, e.g. why it failed.
    :param url: the run's page in Airflow, or its report.
    """
    where = escape(plan.get("environment", ""))
    lines = [f"{EMOJI.get(state, UNJUDGED)} *{_version(plan)} {_verdict(state, plan)}* · {where}"]
    if note:
        lines.append(cut(escape(note), _LINE))
    lines.append(" · ".join(_about(plan)) + (f" · {link(url, 'open')}" if url else ""))
    return "\n".join(lines)


def verdict(state: str, kind: str = "deploy") -> str:
    """Return the verdict in plain words, to stand behind the version."""
    return (VERDICTS_OF_A_ROLLBACK if kind == "rollback" else VERDICTS).get(state, state)


def _verdict(state: str, plan: Mapping[str, Any]) -> str:
    return escape(verdict(state, str(plan.get("kind") or "deploy")))


def _about(plan: Mapping[str, Any]) -> Iterator[str]:
    if plan.get("from_version"):
        yield f"from {escape(plan['from_version'])}"
    if plan.get("requested_by"):
        yield f"asked by {escape(plan['requested_by'])}"
    if plan.get("reason"):
        yield cut(escape(plan["reason"]), 140)


def phase(title: str, found: str = "", *, ok: bool | None = None, seconds: float | None = None) -> str:
    """Return one phase's line: ``:white_check_mark: *Migrate*: r4 → r5 (12 s)``.

    :param found: what it found or did; from outside, so escaped.
    :param ok: None while it runs.
    """
    sign = {None: ":hourglass_flowing_sand:", True: ":white_check_mark:", False: ":x:"}[ok]
    took = f" ({duration(seconds)})" if seconds is not None else ""
    return f"{sign} *{escape(title)}*" + (f": {cut(escape(found), _LONG)}" if found else "") + took


def plan_summary(plan: Mapping[str, Any]) -> str:
    """Return what the plan would change."""
    return "\n".join(_plan_lines(plan))


def _plan_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    yield f"*Plan* {code(plan_hash(plan)[:SHORT])}: {escape(plan.get('from_version') or '?')} → {_version(plan)}"
    workloads = plan.get("workloads") or {}
    if workloads:
        yield "• rolls out " + ", ".join(
            f"{escape(name)} ({_digest(workload.get('to', ''))})" for name, workload in workloads.items()
        )
    yield from _schema_lines(plan.get("schema") or {})
    if minutes := (plan.get("watch") or {}).get("minutes"):
        yield f"• then watches for {escape(minutes)} min"


def _schema_lines(schema: Mapping[str, Any]) -> Iterator[str]:
    if not schema.get("apply"):
        due = len(schema.get("migrations") or [])
        yield f"• schema stays at {code(schema.get('from') or 'none')}" + (
            f"; {due} migrations due, not run" if due else ""
        )
        return
    yield (
        f"• {CLASSES.get(str(schema.get('class')), escape(schema.get('class')))}: "
        f"{code(schema.get('from') or 'none')} → {code(schema.get('to'))}"
    )
    for migration in schema.get("migrations") or []:
        for drop in migration.get("drops") or []:
            yield f"      drops {code(drop)}"


def begun(plan: Mapping[str, Any], by: Mapping[str, Any]) -> str:
    """Return the announcement: approved, and now it begins."""
    approved = f", approved by {escape(by['approved_by'])}" if by.get("approved_by") else ""
    reason = f"\n> {cut(escape(plan.get('reason', '')), _LINE)}" if plan.get("reason") else ""
    who = f"asked for by {escape(by.get('requested_by') or plan.get('requested_by') or 'unknown')}{approved}"
    kind = "Rollback to" if plan.get("kind") == "rollback" else "Release of"
    return f":rocket: *{kind} {_version(plan)}* begins: {who}{reason}\n{plan_summary(plan)}"


def rolling_back(plan: Mapping[str, Any], decision: Mapping[str, Any]) -> str:
    """Return that the release is undone, or that a person is asked whether it should be."""
    why = cut(escape(decision.get("why", "")), _LONG)
    if decision.get("ask"):
        return (
            f":rotating_light: *{_version(plan)} failed after a destructive migration*: {why}\n"
            "Nothing is rolled back by itself: the version before may not work on this schema. "
            "*Decide in Airflow; the on-call is paged.*"
        )
    names = ", ".join(escape(name) for name in decision.get("workloads") or {})
    back = f" to {escape(plan['from_version'])}" if plan.get("from_version") else ""
    return f":rewind: *Rolling back{back}* ({names}): {why}\nThe schema stays as it is."


def not_rolled_back(outcome: str, why: str) -> str:
    """Return why a release that was not judged is left alone."""
    said = {
        "held": "The watch is blind",
        "superseded": "Somebody else changed the platform",
        "inconclusive": "There was too little traffic to judge by",
    }.get(outcome, escape(outcome))
    return (
        f"{UNJUDGED} *{said}*: {cut(escape(why), _LONG)}\n"
        "The release is neither passed nor rolled back by itself. *The on-call is paged: look at the platform.*"
    )


def final(
    outcome: str, plan: Mapping[str, Any], words: str, action: str, *, report_url: str = "", run_url: str = ""
) -> str:
    """Return the last message: the verdict, why, and what to do."""
    lines = [f"{EMOJI.get(outcome, UNJUDGED)} *{_version(plan)} {_verdict(outcome, plan)}*"]
    if words:
        lines.append(cut(escape(words), _LONG))
    if action and action != "Nothing.":
        lines.append(f"*Do:* {cut(escape(action), _LONG)}")
    links = [link(url, label) for url, label in ((report_url, "Report"), (run_url, "Run in Airflow")) if url]
    return "\n".join([*lines, *([" · ".join(links)] if links else [])])


# Questions ---------------------------------------------------------------------------------------


def approval_asked(plan: Mapping[str, Any], url: str, within: float) -> str:
    """Return the question whether the plan is approved, with the way to the answer."""
    asked = f" {escape(plan['requested_by'])} asked for it." if plan.get("requested_by") else ""
    return (
        f":raised_hand: *Who approves {_version(plan)}?*{asked} {link(url, 'Read the plan and answer')} "
        f"within {duration(within)}; no answer is a no.\n{plan_summary(plan)}"
    )


def approval_note(note: str) -> str:
    """Return a line below the question: an answer that did not count, or how many are missing."""
    return f":information_source: {cut(escape(note), _LINE)}"


def approval_given(answer: Mapping[str, Any]) -> str:
    """Return who approved."""
    said = f": {cut(escape(answer['comment']), _LINE)}" if answer.get("comment") else ""
    plan = code(str(answer.get("plan_hash", ""))[:SHORT])
    return f":white_check_mark: *Approved* by {escape(answer.get('by', ''))}, plan {plan}{said}"


def approval_refused(reason: str) -> str:
    """Return that nobody said yes."""
    return f":no_entry: *{_capital(cut(escape(reason), _LONG))}*"


def decision_asked(question: str, options: Sequence[str], url: str, within: float) -> str:
    """Return a question with its options."""
    choices = " or ".join(f"*{escape(option)}*" for option in options)
    return (
        f":raised_hand: *{cut(escape(question), _LINE)}*\n{choices}? {link(url, 'Answer')} within {duration(within)}."
    )


def decision_made(question: str, answer: Mapping[str, Any]) -> str:
    """Return what was chosen, and by whom."""
    said = f": {cut(escape(answer['comment']), _LINE)}" if answer.get("comment") else ""
    return (
        f":white_check_mark: {cut(escape(question), _LINE)} *{escape(answer.get('option'))}*, "
        f"chosen by {escape(answer.get('by', ''))}{said}"
    )


def _version(plan: Mapping[str, Any]) -> str:
    return escape(plan.get("version") or plan.get("kind") or "the change")


def _digest(reference: str) -> str:
    image, _, digest = str(reference).partition("@")
    short = digest.removeprefix("sha256:")[:SHORT]
    return code(short or image.rpartition("/")[2] or "?")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
