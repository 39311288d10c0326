"""What opens no door, and should be mended all the same."""

from __future__ import annotations

from collections.abc import Iterator

from knocker.doctor.evidence import ADVICE, FAULT, Evidence, Finding, Question
from knocker.doctor.remedies import remedy

_NEEDLESS = ("Cookie", "Authorization")


def of_comfort(evidence: Evidence, asked: Question, proxy: str) -> Iterator[Finding]:
    """What is clumsy, by the honest question `asked` and the probes for it."""
    body = evidence.probes["body"].reply
    control = evidence.probes["control"].reply
    if control.status < 500 and (body.status >= 500 or body.status == 0):
        what = f"is answered with {body.status}" if body.status else f"gets no answer: {body.fault}"
        yield Finding(
            FAULT,
            "body",
            f"a request with a body {what}: the proxy tells the gate of a body that never comes",
            remedy("body", proxy),
        )
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
