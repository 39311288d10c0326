"""What the evidence means, in words and with what mends it: plain functions, without any I/O."""

from __future__ import annotations

from collections.abc import Iterator

from knocker.doctor.comfort import of_comfort
from knocker.doctor.evidence import FAULT, OK, REFUSALS, UNSURE, Evidence, Finding, Question
from knocker.doctor.forgeries import of_forgeries, of_paths
from knocker.doctor.remedies import remedy

MOST_SKEW = 5  # seconds between two clocks that nobody need know of
MANY = 5  # questions that look alike are no accident


def diagnose(evidence: Evidence) -> list[Finding]:
    """Everything that can be said, in the order in which it is best mended."""
    proxy = evidence.proxy or _proxy_of(evidence)
    control = evidence.probes["control"]
    found = [*_of_gate(evidence, proxy), *_of_clock(evidence), *_of_families(evidence)]
    asked = next(iter(control.questions), None)
    if asked is None and (untold := _untold_path(evidence, proxy)) is not None:
        asked = evidence.others[-1]
        found.append(untold)
    if asked is None:
        return [*found, _not_asked(evidence, proxy)]
    found += _of_control(evidence, asked, proxy)
    if asked["trusted"]:
        found += of_forgeries(evidence, asked, proxy)
        found += of_paths(evidence, proxy)
        found += of_comfort(evidence, asked, proxy)
    return found


def _proxy_of(evidence: Evidence) -> str:
    """Which proxy it seems to be, empty where that cannot be told."""
    control = evidence.probes["control"]
    said = f"{control.reply.server} {evidence.front.server}".lower()
    for name in ("caddy", "nginx", "envoy"):
        if name in said:
            return name
    for question in [*control.questions, *evidence.others]:
        names = question["headers"] or ()
        if question["path_in_target"]:
            return "envoy"
        if "Via" not in names:
            return "traefik" if "Accept-Encoding" in names else "haproxy" if question["closes"] else ""
    return ""


# --- The gate's own address ------------------------------------------------------------------------------------------


def _of_gate(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    asker = evidence.asker
    believed = [address for address, seen in evidence.forged_askers if seen["client"] == address]
    if believed and not evidence.direct:
        yield Finding(
            FAULT,
            "knock-host",
            "whoever knocks may choose whose door opens: the gate believed a forged X-Forwarded-For",
            remedy("knock-x-forwarded-for", proxy),
        )
    if asker["client"] is None:
        if evidence.direct and asker["trusted"]:
            yield Finding(
                OK,
                "gate",
                f"the gate was asked directly, from {asker['peer']}, which is itself in server.trusted_proxies: right"
                " if the proxy asks from there, else take it out",
            )
        else:
            yield Finding(
                FAULT, "gate", f"a knock by this way has no client: {asker['why']}", _mend_of_why(asker, proxy)
            )
        return
    how = f"through {asker['peer']}" if asker["trusted"] else "directly"
    yield Finding(OK, "gate", f"a knock from here would open the door for {asker['client']}, as the gate sees it {how}")


def _mend_of_why(asked: Question, proxy: str) -> str:
    """What gives a request its client; by what the gate was told."""
    why = asked["why"] or ""
    if not asked["trusted"]:
        return f'add "{asked["peer"]}" to server.trusted_proxies in knocker.yaml, if that is your proxy'
    if "only addresses of server.trusted_proxies" in why:
        return (
            "make server.trusted_proxies narrower: only addresses from which proxies ask, none that a visitor can have"
        )
    return remedy("x-forwarded-for", proxy)


def _of_clock(evidence: Evidence) -> Iterator[Finding]:
    skew = evidence.skew
    if skew is None:
        yield Finding(UNSURE, "clock", "the gate told no time, so its clock could not be compared")
    elif abs(skew) > MOST_SKEW:
        way = "ahead of" if skew > 0 else "behind"
        yield Finding(
            FAULT,
            "clock",
            f"the gate's clock is {abs(round(skew))} s {way} this machine's: packets over UDP are refused when it is"
            " more than udp.window_seconds, and times that are shown are off",
            "let both machines keep their time, e.g. with systemd-timesyncd or chrony",
        )
    else:
        yield Finding(OK, "clock", "the gate's clock and this machine's agree")


def _of_families(evidence: Evidence) -> Iterator[Finding]:
    works = [family for family, fault in evidence.families.items() if fault == ""]
    for family, fault in evidence.families.items():
        if fault is None:
            yield Finding(
                UNSURE, "families", f"{evidence.host} has an {family} address, but this machine has no {family}"
            )
        elif fault:
            other = f", while {works[0]} works" if works else ""
            yield Finding(
                FAULT,
                "families",
                f"{evidence.host} has an {family} address, but there is no answer over it{other}: {fault}",
                f"let the proxy listen on {family} too, open its port there, or take that address out of DNS",
            )
    if works and len(works) == len(evidence.families):
        yield Finding(OK, "families", f"{evidence.host} answers over {' and '.join(works)}")


# --- The honest request ----------------------------------------------------------------------------------------------


def _untold_path(evidence: Evidence, proxy: str) -> Finding | None:
    """Whether the gate was asked, but not for the path that was."""
    paths = [question["path"] for question in evidence.others]
    if len(paths) < MANY or len(set(paths)) > 1:
        return None
    what = "does not say which path is asked for" if paths[0] is None else f"names {paths[0]}, whatever is asked for"
    return Finding(
        FAULT,
        "path",
        f"the proxy {what}: no path of excluded_paths will ever be open, or too much",
        remedy("x-forwarded-uri", proxy),
    )


def _not_asked(evidence: Evidence, proxy: str) -> Finding:
    """What it means that no question of ours came to the gate."""
    reply, front = evidence.probes["control"].reply, evidence.front
    if reply.status == 0:
        return Finding(UNSURE, "asked", f"{evidence.host} gave no answer: {reply.fault}")
    if 200 <= front.status < 300 or (reply.status in (200, 404, 405) and front.status not in (0, *REFUSALS, 404)):
        return Finding(
            FAULT,
            "asked",
            f"{evidence.host} answers {front.status} to everybody: this gate is not asked",
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


def _of_control(evidence: Evidence, asked: Question, proxy: str) -> Iterator[Finding]:
    status = evidence.probes["control"].reply.status
    if not asked["trusted"]:
        yield Finding(
            FAULT,
            "trusted_proxies",
            f"the proxy asks from {asked['peer']}, which is not in server.trusted_proxies, so nobody gets in",
            _mend_of_why(asked, proxy),
        )
        return
    yield Finding(OK, "asked", f"the gate is asked before {evidence.host} answers")
    if not asked["allowed"] and 200 <= status < 400:
        yield Finding(
            FAULT,
            "asked",
            f"the gate refused, and {evidence.host} answered {status} all the same",
            remedy("asked", proxy),
        )
    if asked["allowed"]:
        yield Finding(
            UNSURE,
            "refusals",
            "this machine is let in, so nothing can be said of how the proxy refuses",
            "run doctor once from a machine that is not let in, e.g. over a phone's network",
        )
    if asked["client"] is None:
        yield Finding(FAULT, "client", f"no visitor has an address: {asked['why']}", _mend_of_why(asked, proxy))
    else:
        yield from _of_client(evidence.asker, asked, proxy)
    if asked["host"] != evidence.host.lower():
        named = f"{asked['host']} instead of {evidence.host}" if asked["host"] else "no host"
        yield Finding(
            FAULT,
            "host",
            f"the proxy names {named}: keys with `hosts`, and settings by host, will not work",
            remedy("x-forwarded-host", proxy),
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
