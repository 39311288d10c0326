"""What the evidence means, in words and with what mends it: plain functions, without any I/O."""

from __future__ import annotations

from collections.abc import Iterator

from knocker.core.hosts import read_host
from knocker.doctor.comfort import of_comfort
from knocker.doctor.evidence import FAULT, OK, REFUSALS, UNSURE, Evidence, Finding, Question
from knocker.doctor.forgeries import of_forgeries, of_paths
from knocker.doctor.gate import of_clock, of_gate
from knocker.doctor.remedies import mend_of_why, remedy

_MANY = 8  # questions that look alike are no accident
_SERVERS = {
    **{name: name for name in ("caddy", "nginx", "envoy", "traefik", "haproxy")},
    **dict.fromkeys(("openresty", "angie", "tengine"), "nginx"),
}


def diagnose(evidence: Evidence) -> list[Finding]:
    """Everything that can be said, in the order in which it is best mended."""
    proxy = evidence.proxy or _proxy_of(evidence)
    found = [*of_gate(evidence, proxy), *of_clock(evidence), *_of_families(evidence, proxy)]
    asked = evidence.control.question
    if asked is None:
        untold = [*_of_untold_path(evidence, proxy)]
        return [*found, *untold, *(of_forgeries(evidence, proxy) if untold else [_not_asked(evidence, proxy)])]
    found += _of_control(evidence, asked, proxy)
    if asked["trusted"]:
        found += of_forgeries(evidence, proxy)
        found += of_paths(evidence, proxy)
        found += of_comfort(evidence, asked, proxy)
    return found


def _proxy_of(evidence: Evidence) -> str:
    """Which proxy it seems to be, empty where that cannot be told."""
    asked = evidence.control.question
    names = (asked["headers"] or ()) if asked is not None else ()
    if asked is not None and asked["path_in_target"]:
        return "envoy"
    said = f"{evidence.control.reply.server} {evidence.front.server}".lower()
    if asked is None or not asked["allowed"]:  # else it is the app that says so
        for word, name in _SERVERS.items():
            if word in said:
                return name
    if "caddy" in said:  # which leaves its name beside the app's
        return "caddy"
    if asked is None or said.strip():
        return ""
    if "Accept-Encoding" in names and "User-Agent" not in names:
        return "traefik"
    return "haproxy" if asked["closes"] and "User-Agent" not in names else ""


def _of_families(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    families = evidence.families
    works = [family for family, probe in families.items() if probe is not None and probe.reply.status]
    asked = [family for family, probe in families.items() if probe is not None and probe.questions]
    for family, probe in families.items():
        if probe is None:
            yield Finding(
                UNSURE, "families", f"{evidence.host} has an {family} address, but this machine has no {family}"
            )
        elif not probe.reply.status:
            other = f", while {works[0]} works" if works else ""
            yield Finding(
                FAULT,
                "families",
                f"{evidence.host} has an {family} address, but there is no answer over it{other}: {probe.reply.fault}",
                probe.reply.hint
                or f"let the proxy listen on {family} too, open its port there, or take that address out of DNS",
            )
        elif asked and family not in asked:
            yield Finding(
                FAULT,
                "families",
                f"over {family} {evidence.host} answers {probe.reply.status}, and this gate is not asked, as it is over"
                f" {asked[0]}: does that address lead past the proxy?",
                remedy("asked", proxy),
            )
    if works and len(works) == len(families) and len(asked) in (0, len(works)):
        yield Finding(OK, "families", f"{evidence.host} answers over {' and '.join(works)}")


# --- Nothing came to the gate ----------------------------------------------------------------------------------------


def _of_untold_path(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    """Whether the gate was asked, but not for the path that was."""
    mine = [other for other in evidence.others if other["host"] in (None, _host(evidence)) and other["count"] >= _MANY]
    if len(mine) == 1:
        what = "names always the same path" if mine[0]["has_path"] else "does not say which path is asked for"
        yield Finding(
            FAULT,
            "path",
            f"the proxy {what}: no path of excluded_paths will ever be open, or all of them will",
            remedy("x-forwarded-uri", proxy),
        )


def _host(evidence: Evidence) -> str | None:
    """The app's name as the gate writes it."""
    name = f"[{evidence.host}]" if ":" in evidence.host else evidence.host
    return read_host(name.encode())


def _not_asked(evidence: Evidence, proxy: str) -> Finding:
    """What it means that no question of ours came to the gate."""
    reply, front = evidence.control.reply, evidence.front
    if reply.status == 0:
        return Finding(UNSURE, "asked", f"{evidence.host} gave no answer: {reply.fault}", reply.hint)
    if 200 <= reply.status < 300 or 200 <= front.status < 300 or (reply.status == 404 and 300 <= front.status < 400):
        return Finding(
            FAULT,
            "asked",
            f"{evidence.host} answers this machine {front.status} without asking this gate",
            remedy("asked", proxy),
        )
    if 300 <= reply.status < 400:
        return Finding(
            UNSURE,
            "asked",
            f"{evidence.host} redirects to {reply.location or 'another address'}, without asking this gate",
            "run doctor with the address that it leads to",
        )
    refused = " It refuses, so another gate or a login may stand there." if reply.status in REFUSALS else ""
    return Finding(
        UNSURE,
        "asked",
        f"{evidence.host} answered {reply.status}, and no question that could be told to be this machine's came to the"
        f" gate.{refused}",
        "does this site ask this very gate, at /verify? If it does, it tells the gate neither path nor client: "
        + remedy("x-forwarded-uri", proxy),
    )


# --- The honest request ----------------------------------------------------------------------------------------------


def _of_control(evidence: Evidence, asked: Question, proxy: str) -> Iterator[Finding]:
    if not asked["trusted"]:
        yield Finding(
            FAULT,
            "trusted_proxies",
            f"the proxy asks from {asked['peer']}, which is not in server.trusted_proxies, so nobody gets in",
            mend_of_why(asked, proxy),
        )
        return
    yield Finding(OK, "asked", f"the gate is asked before {evidence.host} answers")
    yield from _of_refusal(evidence, asked, proxy)
    if asked["client"] is None:
        yield Finding(FAULT, "client", f"no visitor has an address: {asked['why']}", mend_of_why(asked, proxy))
    else:
        yield from _of_client(evidence.asker, asked, proxy)
    if asked["path"] is None:
        yield Finding(
            FAULT,
            "path",
            "the gate does not know for sure which path is asked for: no path of excluded_paths will ever be open",
            remedy("x-forwarded-uri", proxy),
        )
    elif asked["path"] != evidence.control.path:
        yield Finding(
            FAULT,
            "path",
            f"asked for {evidence.control.path}, the proxy asks the gate about {asked['path']}: excluded paths and the"
            " app mean different ones",
            remedy("decoded", proxy),
        )
    if asked["host"] != _host(evidence):
        named = f"{asked['host']} instead of {evidence.host}" if asked["host"] else "no host"
        yield Finding(
            FAULT,
            "host",
            f"the proxy names {named}: keys with `hosts`, and settings by host, will not work",
            remedy("x-forwarded-host", proxy),
        )


def _of_refusal(evidence: Evidence, asked: Question, proxy: str) -> Iterator[Finding]:
    reply = evidence.control.reply
    if asked["cause"] in ("grant", "always_allowed"):
        yield Finding(
            UNSURE,
            "refusals",
            "this machine is let in, so nothing can be said of how the proxy refuses",
            "run doctor once from a machine that is not let in, e.g. over a phone's network",
        )
    elif asked["cause"] == "excluded_path":
        yield Finding(
            UNSURE,
            "refusals",
            "this path is open to everybody by security.excluded_paths, so nothing can be said of how it refuses",
            "run doctor once more with an address that is not open to all",
        )
    elif not asked["allowed"] and 200 <= reply.status < 300:
        yield Finding(
            FAULT,
            "asked",
            f"the gate refused, and {evidence.host} answered {reply.status} all the same",
            remedy("asked", proxy),
        )
    elif not asked["allowed"] and 300 <= reply.status < 400:
        yield Finding(
            UNSURE,
            "refusals",
            f"whoever is refused is led to {reply.location or 'another address'}: right if that is the knock page's,"
            " and not the app's",
        )


def _of_client(asker: Question, asked: Question, proxy: str) -> Iterator[Finding]:
    told, mine = asked["client"], asker["client"]
    if asker["trusted"] and mine is not None and mine != told and (":" in mine) == (":" in told):
        yield Finding(
            FAULT,
            "client",
            f"a knock from here would open the door for {mine}, but the same machine's requests come from {told}",
            remedy("x-forwarded-for", proxy),
        )
    else:
        yield Finding(OK, "client", f"the gate takes this machine for {told}: check that this is its own address")
