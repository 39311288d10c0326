"""What the gate believed of the forged requests, and which paths it was asked for instead of odd ones."""

from __future__ import annotations

import re
from collections.abc import Iterator

from knocker.doctor.evidence import ADVICE, FAULT, OK, REFUSALS, Evidence, Finding, Question
from knocker.doctor.remedies import remedy


def of_forgeries(evidence: Evidence, asked: Question, proxy: str) -> Iterator[Finding]:
    """Every forgery that was believed, and those that came through in vain; `asked` is the honest question."""
    faults = [
        *_of_addresses(evidence, proxy),
        *_of_host(evidence, proxy),
        *_of_forged_path(evidence, "X-Forwarded-Uri", "uri", proxy),
        *_of_forged_path(evidence, "X-Original-Uri", "original", proxy),
        *_of_opened(evidence, asked, proxy),
    ]
    yield from faults
    if not any(finding.level == FAULT for finding in faults):
        yield Finding(OK, "forgeries", "no forged header made the gate believe anything")


def _of_addresses(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    kinds = {"one": "a forged X-Forwarded-For", "several": "several forged lines of X-Forwarded-For"}
    for name, words in kinds.items():
        if name in evidence.used_addresses:
            yield Finding(
                FAULT,
                "x-forwarded-for",
                f"{words} is believed: whoever knows an address that is let in gets in",
                remedy("x-forwarded-for", proxy),
            )
            return
    names = ("one", "several")
    if any("X-Forwarded-For" in question["arrived"] for name in names for question in evidence.probes[name].questions):
        yield Finding(
            ADVICE,
            "x-forwarded-for",
            "what visitors write into X-Forwarded-For comes along, in front of their addresses: no harm, since the gate"
            " reads it from the right, unless server.trusted_proxies has an address of theirs. Needed only behind"
            " another proxy, such as a CDN",
            remedy("x-forwarded-for", proxy),
        )
    if "real" in evidence.used_addresses:
        yield Finding(
            FAULT,
            "x-real-ip",
            "the proxy makes X-Forwarded-For out of the client's own X-Real-IP or Forwarded: whoever knows an address"
            " that is let in gets in",
            remedy("x-forwarded-for", proxy),
        )


def _of_host(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    probe = evidence.probes["host"]
    for question in probe.questions:
        if str(question["host"]).endswith(".invalid"):
            yield Finding(
                FAULT,
                "x-forwarded-host",
                "a forged X-Forwarded-Host is believed: a key that opens one host opens every other one too",
                remedy("x-forwarded-host", proxy),
            )
            return


def _of_forged_path(evidence: Evidence, header: str, name: str, proxy: str) -> Iterator[Finding]:
    problem = "x-forwarded-uri" if name == "uri" else "x-original-uri"
    for question in evidence.probes[name].questions:
        if "forged-" in str(question["path"]):
            yield Finding(
                FAULT,
                problem,
                f"a forged {header} is believed: whoever names an excluded path gets to every other one",
                remedy(problem, proxy),
            )
            return
        if "forged-" in question["arrived"].get(header, ""):
            yield Finding(
                ADVICE,
                problem,
                f"the client's own {header} comes through to the gate, which therefore knows no path for sure and"
                " excludes none: no harm, but an open path is closed to whoever sends one",
                remedy(problem, proxy),
            )
            return


def _of_opened(evidence: Evidence, asked: Question, proxy: str) -> Iterator[Finding]:
    """Forgeries after which the app answered somebody whom it would have refused."""
    if asked["allowed"] or evidence.probes["control"].reply.status not in REFUSALS:
        return
    for name, probe in evidence.probes.items():
        if 200 <= probe.reply.status < 400:
            yield Finding(
                FAULT,
                "opened",
                f"the request {_WORDS[name]} was answered with {probe.reply.status}, where an honest one is refused",
                remedy("asked", proxy),
            )


_WORDS = {
    "one": "with a forged X-Forwarded-For",
    "several": "with several forged lines of X-Forwarded-For",
    "real": "with a forged X-Real-IP and Forwarded",
    "host": "with a forged X-Forwarded-Host",
    "uri": "with a forged X-Forwarded-Uri",
    "original": "with a forged X-Original-URI",
    "method": "with a forged X-Forwarded-Method",
    "needless": "with a cookie and a login",
    "body": "with a body",
    "dots": "for a path with ..",
    "coded dots": "for a path with %2e%2e",
    "coded slash": "for a path with %2f",
    "coded sign": "for a path with %3B",
    "line break": "for a path with %0d%0a",
    "two slashes": "for a path with //",
}
ODD_PATHS = ("dots", "coded dots", "coded slash", "coded sign", "line break", "two slashes")


def of_paths(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    """Whether the gate was asked for the very paths that were sent."""
    tidied, faults = [], []
    for name in ODD_PATHS:
        probe = evidence.probes[name]
        for question in probe.questions:
            if "X-Knocker-Canary" in question["arrived"]:
                faults.append("a line break in a path began a header of the client's own")
            path = question["path"]
            if path is None or path == probe.path:
                continue
            if "%" in probe.path and _decodes(probe.path, path):
                faults.append(f"{_shape(probe.path)} became {_shape(path)} before the gate was asked")
            else:
                tidied.append(_WORDS[name].removeprefix("for a path with "))
    if faults:
        yield Finding(
            FAULT,
            "paths",
            f"the gate judges another path than the app gets: {'; '.join(dict.fromkeys(faults))}",
            remedy("decoded", proxy),
        )
    elif any(evidence.probes[name].questions for name in ODD_PATHS):
        how = f", tidied up ({', '.join(tidied)})" if tidied else ", as they were sent"
        yield Finding(OK, "paths", f"odd paths come to the gate{how}; the app must get the same")


def _decodes(sent: str, path: str) -> bool:
    """Whether more was undone than RFC 3986 6.2.2 has every server undo: letters' case, dots, unreserved signs."""
    return len(re.findall("%(?:3B|0D|0A|2F)", path, re.IGNORECASE)) < len(
        re.findall("%(?:3B|0D|0A|2F)", sent, re.IGNORECASE)
    )


def _shape(path: str) -> str:
    """The end of a path, which is what differs."""
    return "..." + path[-24:].encode("unicode_escape").decode()
