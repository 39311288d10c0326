"""What the gate believed of the forged requests, and which paths it was asked for instead of odd ones."""

from __future__ import annotations

import re
from collections.abc import Iterator

from knocker.doctor.evidence import ADVICE, FAULT, INJECTED, OK, Evidence, Finding
from knocker.doctor.remedies import remedy

_WORDS = {
    "one": "with a forged X-Forwarded-For",
    "several": "with several forged lines of X-Forwarded-For",
    "real": "with a forged X-Real-IP and Forwarded",
    "vendors": "with forged headers such as CF-Connecting-IP",
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
_ADDRESSES = {
    "one": "a forged X-Forwarded-For is",
    "several": "several forged lines of X-Forwarded-For are",
    "real": "the client's own X-Real-IP or Forwarded is",
    "vendors": "a client's own CF-Connecting-IP, True-Client-IP, X-Client-IP or the like is",
}


def of_forgeries(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    """Every forgery that was believed, and those that came through in vain."""
    found = [
        *_of_addresses(evidence, proxy),
        *_of_hosts(evidence, proxy),
        *_of_forged_path(evidence, "uri", "X-Forwarded-Uri", proxy),
        *_of_forged_path(evidence, "original", "X-Original-URI", proxy),
        *_of_opened(evidence, proxy),
    ]
    yield from found
    if evidence.control.questions and not any(finding.level == FAULT for finding in found):
        yield Finding(
            OK,
            "forgeries",
            "no forgery made the gate believe anything: X-Forwarded-For, -Host, -Uri and -Method, X-Original-URI,"
            " X-Real-IP, Forwarded, CF-Connecting-IP and its like, and Host",
        )


def _of_addresses(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    believed = next((name for name in _ADDRESSES if name in evidence.used), None)
    if believed is not None:
        yield Finding(
            FAULT,
            "x-forwarded-for" if believed in ("one", "several") else "x-real-ip",
            f"{_ADDRESSES[believed]} believed: whoever knows an address that is let in gets in",
            remedy("x-forwarded-for", proxy),
        )
        return
    probes = (evidence.probes[name] for name in ("one", "several"))
    if any("X-Forwarded-For" in question["arrived"] for probe in probes for question in probe.questions):
        yield Finding(
            ADVICE,
            "x-forwarded-for",
            "what visitors write into X-Forwarded-For comes along, in front of their addresses: no harm, since the gate"
            " reads it from the right, unless server.trusted_proxies has an address of theirs. Needed only behind"
            " another proxy, such as a CDN",
            remedy("x-forwarded-for", proxy),
        )


def _of_hosts(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    kinds = {"host": "X-Forwarded-Host", "own host": "Host", "whole": "Host beside a whole URL"}
    for name, words in kinds.items():
        if any(str(question["host"]).endswith(".invalid") for question in evidence.probes[name].questions):
            yield Finding(
                FAULT,
                "x-forwarded-host",
                f"a forged {words} is believed, and the app answers all the same: a key that opens one host opens this"
                " one too",
                remedy("x-forwarded-host", proxy),
            )
            return


def _of_forged_path(evidence: Evidence, name: str, header: str, proxy: str) -> Iterator[Finding]:
    for question in evidence.probes[name].questions:
        if "forged-" in str(question["path"]):
            yield Finding(
                FAULT,
                header.lower(),
                f"a forged {header} is believed: whoever names an excluded path gets to every other one",
                remedy(header.lower(), proxy),
            )
            return
        arrived = {line.lower(): value for line, value in question["arrived"].items()}
        if "forged-" in arrived.get(header.lower(), ""):
            yield Finding(
                ADVICE,
                header.lower(),
                f"the client's own {header} comes through to the gate, which therefore knows no path for sure and"
                " excludes none: no harm, but an open path is closed to whoever sends one",
                remedy(header.lower(), proxy),
            )
            return


def _of_opened(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    """Requests that the app answered, where it would have refused."""
    if not evidence.was_refused:
        return
    if 200 <= evidence.front.status < 300:
        yield Finding(
            FAULT,
            "opened",
            f"{evidence.host} shows its first page ({evidence.front.status}) to whom other paths are refused: the gate"
            " is not asked for that one",
            remedy("asked", proxy),
        )
    for name, words in _WORDS.items():
        if 200 <= evidence.probes[name].reply.status < 300:
            status = evidence.probes[name].reply.status
            yield Finding(
                FAULT,
                "opened",
                f"the request {words} was answered with {status}, where an honest one is refused",
                remedy("asked", proxy),
            )


def of_paths(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    """Whether the gate was asked for the very paths that were sent."""
    tidied: list[str] = []
    faults: list[str] = []
    known = 0
    for name in ODD_PATHS:
        probe = evidence.probes[name]
        for question in probe.questions:
            if INJECTED in question["arrived"]:
                faults.append("a line break in a path began a header of the client's own")
            path = question["path"]
            if path is None:
                continue
            known += 1
            if _decodes(probe.path, path):
                faults.append(f"{_shape(probe.path)} became {_shape(path)} before the gate was asked")
            elif path != probe.path:
                tidied.append(_WORDS[name].removeprefix("for a path with "))
    if faults:
        yield Finding(
            FAULT,
            "paths",
            f"the gate judges another path than the app gets: {'; '.join(dict.fromkeys(faults))}",
            remedy("decoded", proxy),
        )
    elif known:
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
