"""How the gate saw requests to itself, and whether a knock by that way would work."""

from __future__ import annotations

from collections.abc import Iterator

from knocker.doctor.evidence import FAULT, OK, UNSURE, Evidence, Finding
from knocker.doctor.remedies import mend_of_why, remedy

MOST_SKEW = 5  # seconds between two clocks that nobody need know of


def of_gate(evidence: Evidence, proxy: str) -> Iterator[Finding]:
    """Who a knock would be for."""
    asker = evidence.asker
    believed = evidence.forged_asker["client"] == evidence.forged
    # A proxy of ours would have named a client, or at least the host.
    alone = asker["trusted"] and not asker["forwarded_for"] and asker["host"] is None
    if alone:
        yield _alone(asker["peer"], evidence.own, proxy)
        return
    if believed:
        yield Finding(
            FAULT,
            "knock-host",
            "whoever knocks may choose whose door opens: the gate believed a forged X-Forwarded-For",
            remedy("knock-x-forwarded-for", proxy),
        )
    if asker["client"] is None:
        yield Finding(FAULT, "gate", f"a knock by this way has no client: {asker['why']}", mend_of_why(asker, proxy))
    elif asker["refused"]:
        yield Finding(
            FAULT,
            "gate",
            f"a knock from here opens nothing: the gate sees {asker['client']}, and {asker['refused']}",
        )
    else:
        how = f"through {asker['peer']}" if asker["trusted"] else "directly"
        yield Finding(
            OK, "gate", f"a knock from here would open the door for {asker['client']}, as the gate sees it {how}"
        )


def _alone(peer: str, own: bool, proxy: str) -> Finding:
    """What it means that a trusted peer asked, and named nobody."""
    if own:
        return Finding(
            OK,
            "gate",
            f"the gate was asked directly, from {peer}, which is itself in server.trusted_proxies: right if the proxy"
            " asks from there, else take it out",
        )
    return Finding(
        UNSURE,
        "gate",
        f"the gate was asked from {peer}, which is in server.trusted_proxies, and no proxy said who asks: is that"
        " address the proxy's alone? With Docker it may be that of everybody who comes by a published port, and then"
        " anybody may say who he is; so he may where that was the proxy, and it passes on what its visitors say",
        "publish no port of Knocker's own, and let --url be the knock host. There, "
        + remedy("knock-x-forwarded-for", proxy),
    )


def of_clock(evidence: Evidence) -> Iterator[Finding]:
    """Whether two clocks agree."""
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
