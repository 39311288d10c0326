"""What opens no door, and should be mended all the same."""

from __future__ import annotations

from collections.abc import Iterator

from knocker.doctor.evidence import ADVICE, FAULT, Evidence, Finding, Question
from knocker.doctor.remedies import remedy

_NEEDLESS = ("Cookie", "Authorization")


def of_comfort(evidence: Evidence, asked: Question, proxy: str) -> Iterator[Finding]:
    """What is clumsy, by the honest question `asked` and the probes for it."""
    body, control = evidence.probes["body"], evidence.control
    if 0 < control.reply.status < 500 and not body.questions and not 0 < body.reply.status < 500:
        status = body.reply.status
        what = f"is answered with {status}" if status else f"gets no answer: {body.reply.fault}"
        yield Finding(
            FAULT,
            "body",
            f"a request with a body {what}, and the gate heard of no whole one: does the proxy tell it of a body that"
            " never comes?",
            remedy("body", proxy),
        )
    yield from _of_method(evidence, asked, proxy)
    needless = evidence.probes["needless"].questions
    passed = [name for name in _NEEDLESS if any(name in question["arrived"] for question in needless)]
    if passed:
        yield Finding(
            ADVICE,
            "needless",
            f"{' and '.join(passed)} of visitors reach the gate, which has no use for them; with many cookies a request"
            " may become too long for it",
            remedy("needless", proxy),
        )
    if asked["closes"] and proxy == "nginx":
        yield Finding(
            ADVICE, "connections", "each question to the gate opens a new connection", remedy("connections", proxy)
        )


def _of_method(evidence: Evidence, asked: Question, proxy: str) -> Iterator[Finding]:
    if not asked["path_in_target"] and asked["headers"] is not None and asked["method"] is None:
        yield Finding(
            ADVICE,
            "method",
            "the proxy does not say by which method it was asked: pages for refused browsers may be shown to others",
            remedy("method", proxy),
        )
    elif any("X-Forwarded-Method" in question["arrived"] for question in evidence.probes["method"].questions):
        yield Finding(
            ADVICE,
            "method",
            "the client's own X-Forwarded-Method comes through to the gate: it decides whether a page is shown",
            remedy("method", proxy),
        )
