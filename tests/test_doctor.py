"""What doctor says of evidence, also of such as no real proxy gives readily."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from knocker.doctor.diagnosis import diagnose
from knocker.doctor.evidence import INJECTED, Evidence, Probe, Reply
from knocker.doctor.forgeries import ODD_PATHS
from knocker.doctor.probing import NAMES, ODD
from knocker.doctor.remedies import _REMEDIES, PROXIES, remedy

ME, HOST, PATH = "203.0.113.7", "app.example.com", "/canary-0a1b/n-0"
CADDY = Reply(401, server="Caddy")
ASKER = {
    "peer": "172.20.0.3",
    "trusted": True,
    "forwarded_for": [ME],
    "client": ME,
    "why": None,
    "host": "knock.example.com",
    "refused": "",
}


def question(**changes: Any) -> dict[str, Any]:
    """An honest one, as a Caddy asks it of somebody who is not let in."""
    return {
        "peer": "172.20.0.3",
        "trusted": True,
        "client": ME,
        "why": None,
        "host": HOST,
        "path": PATH,
        "path_in_target": False,
        "method": "GET",
        "allowed": False,
        "cause": "no_grant",
        "arrived": {},
        "headers": ["Host", "Via", "X-Forwarded-For"],
        "closes": False,
        **changes,
    }


def probes(**changes: Probe) -> dict[str, Probe]:
    found = {name: Probe(PATH, CADDY, [question()]) for name in NAMES}
    return {**found, **{name.replace("_", " "): probe for name, probe in changes.items()}}


DEAD = Probe(PATH, Reply(0, "it was refused"))
TLS = Probe(PATH, Reply(0, "not trusted", "is this the right name?"))
OPEN = Probe(PATH, Reply(200))


def evidence(**changes: Any) -> Evidence:
    found = probes()
    families: dict[str, Probe | None] = {"IPv4": found["control"], "IPv6": found["control"]}
    clean = Evidence(HOST, 0.0, families, ASKER, ASKER, "100::1", False, CADDY, found)
    return replace(clean, **changes)


def said(found: Evidence, *levels: str) -> dict[str, str]:
    return {
        finding.check: f"{finding.text} -> {finding.mend}" for finding in diagnose(found) if finding.level in levels
    }


def test_where_all_is_well_nothing_else_is_said() -> None:
    assert not said(evidence(), "fault", "advice", "unsure")
    assert set(said(evidence(), "ok")) == {"gate", "clock", "families", "asked", "client", "forgeries", "paths"}


def unasked(status: int, front: Reply, **changes: Any) -> Evidence:
    """No question came to the gate."""
    found = {name: Probe(PATH, Reply(status, **changes)) for name in NAMES}
    return evidence(probes=found, front=front)


@pytest.mark.parametrize(
    ("found", "level", "words"),
    [
        (unasked(200, Reply(200)), "fault", "answers this machine 200 without asking this gate"),
        (unasked(404, Reply(200)), "fault", "answers this machine 200 without asking"),
        (unasked(404, Reply(302)), "fault", "answers this machine 302 without asking"),
        (unasked(404, Reply(404)), "unsure", "answered 404, and no question"),
        (unasked(401, Reply(401)), "unsure", "another gate or a login may stand there"),
        (unasked(403, Reply(403)), "unsure", "another gate or a login may stand there"),
        (unasked(502, Reply(502)), "unsure", "answered 502, and no question"),
        (unasked(308, Reply(308), location="https://x.example/"), "unsure", "redirects to https://x.example/"),
        (unasked(0, Reply(0), fault="nothing came in time"), "unsure", "gave no answer: nothing came in time"),
    ],
)
def test_a_site_that_does_not_ask_this_gate(found: Evidence, level: str, words: str) -> None:
    told = said(found, level)
    assert words in told["asked"]
    assert "forgeries" not in said(found, "ok"), "nothing is called well that was not seen"
    assert "asked" not in said(found, "ok")


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"skew": 61.0}, "clock", "61 s ahead of"),
        ({"skew": -61.0}, "clock", "61 s behind"),
        ({"families": {"IPv4": probes()["control"], "IPv6": DEAD}}, "families", "while IPv4 works: it was refused"),
        ({"families": {"IPv4": DEAD}}, "families", "there is no answer over it: it was refused"),
        ({"families": {"IPv4": TLS}}, "families", "not trusted -> is this the right name?"),
        ({"families": {"IPv4": probes()["control"], "IPv6": OPEN}}, "families", "over IPv6 app.example.com answers"),
        ({"front": Reply(200)}, "opened", "shows its first page (200) to whom other paths are refused"),
        ({"used": ["vendors"]}, "x-real-ip", "a client's own CF-Connecting-IP"),
        ({"asker": {**ASKER, "refused": "it is a shared one"}}, "gate", "nothing: the gate sees 203.0.113.7, and it"),
        ({"used": ["one"]}, "x-forwarded-for", "a forged X-Forwarded-For is believed"),
        ({"used": ["several"]}, "x-forwarded-for", "several forged lines of X-Forwarded-For are believed"),
        ({"used": ["real"]}, "x-real-ip", "the client's own X-Real-IP or Forwarded is believed"),
        ({"asker": {**ASKER, "client": None, "why": "told nothing"}}, "gate", "has no client: told nothing"),
        ({"asker": {**ASKER, "client": "203.0.113.8"}}, "client", f"but the same machine's requests come from {ME}"),
        ({"forged_asker": {**ASKER, "client": "100::1"}}, "knock-host", "believed a forged"),
    ],
)  # fmt: skip
def test_what_is_wrong_around_the_questions(changes: dict[str, Any], check: str, words: str) -> None:
    assert words in said(evidence(**changes), "fault")[check]


@pytest.mark.parametrize(
    ("name", "probe", "check", "words"),
    [
        ("control", Probe(PATH, Reply(200), [question()]), "asked", "the gate refused, and app.example.com answered"),
        ("control", Probe(PATH, CADDY, [question(host=None)]), "host", "the proxy names no host"),
        ("control", Probe(PATH, CADDY, [question(host="b.example")]), "host", "b.example instead of app.example.com"),
        ("control", Probe(PATH, CADDY, [question(client=None, why="nothing")]), "client", "has an address: nothing"),
        ("uri", Probe(PATH, CADDY, [question(path="/canary-0a1b/forged-5")]), "x-forwarded-uri", "is believed"),
        ("original", Probe(PATH, CADDY, [question(path="/canary-0a1b/forged-6")]), "x-original-uri", "is believed"),
        ("host", Probe(PATH, CADDY, [question(host="f.canary-0a1b.invalid")]), "x-forwarded-host", "opens this one"),
        ("method", Probe(PATH, Reply(200), [question()]), "opened", "X-Forwarded-Method was answered with 200"),
        ("dots", Probe(PATH, Reply(206), [question()]), "opened", "for a path with .. was answered with 206"),
        ("control", Probe(PATH, CADDY, [question(path=None)]), "path", "does not know for sure which path"),
        ("control", Probe("/app" + PATH, CADDY, [question()]), "path", f"asked for /app{PATH}, the proxy asks"),
        ("own_host", Probe(PATH, CADDY, [question(host="n.canary-0a.invalid")]), "x-forwarded-host", "forged Host is"),
        ("whole", Probe(PATH, CADDY, [question(host="n.canary-0a.invalid")]), "x-forwarded-host", "beside a whole URL"),
        ("line_break", Probe(PATH, CADDY, [question(arrived={INJECTED: "x"})]), "paths", "the client's own"),
        ("coded_sign", Probe("/c%3Bx", CADDY, [question(path="/c;x")]), "paths", ".../c%3Bx became .../c;x"),
        ("body", Probe(PATH, Reply(504), ()), "body", "is answered with 504"),
        ("body", Probe(PATH, Reply(0, "it timed out"), ()), "body", "gets no answer: it timed out"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_one_question(name: str, probe: Probe, check: str, words: str) -> None:
    assert words in said(evidence(probes=probes(**{name: probe})), "fault")[check]


def test_a_redirect_of_the_app_to_a_visitor_who_is_let_in_is_no_fault() -> None:
    inside = {name: Probe(PATH, Reply(302), [question(allowed=True, cause="grant")]) for name in NAMES}
    assert not said(evidence(probes=inside), "fault", "advice")
    assert "refusals" in said(evidence(probes=inside), "unsure")


def test_a_path_that_is_open_to_everybody_says_nothing_of_refusals() -> None:
    inside = {name: Probe(PATH, Reply(200), [question(allowed=True, cause="excluded_path")]) for name in NAMES}
    found = evidence(probes=inside, front=Reply(200))
    assert not said(found, "fault", "advice")
    assert "excluded_paths" in said(found, "unsure")["refusals"]


def test_what_cannot_be_known_is_said_as_that() -> None:
    found = evidence(skew=None, families={"IPv4": probes()["control"], "IPv6": None})
    assert set(said(found, "unsure")) == {"clock", "families"}
    assert "families" not in said(found, "ok")


def test_a_machine_that_is_trusted_itself_proves_nothing_by_its_forgeries() -> None:
    """As on the proxy's own machine, asking the gate without it."""
    alone = {**ASKER, "peer": "127.0.0.1", "client": None, "why": "told nothing", "forwarded_for": [], "host": None}
    found = evidence(asker=alone, own=True, forged_asker={**alone, "client": "100::1"})
    assert not said(found, "fault", "unsure")
    assert "itself in server.trusted_proxies" in said(found, "ok")["gate"]
    found = replace(found, own=False)
    assert not said(found, "fault")
    assert "is that address the proxy's alone?" in said(found, "unsure")["gate"]


def test_a_proxy_that_names_always_the_same_path_or_none_is_told() -> None:
    nothing = {name: Probe(PATH, CADDY) for name in NAMES}
    for has_path, words in ((False, "does not say which path"), (True, "names always the same path")):
        found = evidence(probes=nothing, others=[{"host": HOST, "has_path": has_path, "count": 17}])
        assert words in said(found, "fault")["path"]
        assert not {"asked", "forgeries", "paths"} & set(said(found, "ok", "unsure"))
    for others in (
        [{"host": "other.example.com", "has_path": True, "count": 99}],
        [{"host": HOST, "has_path": True, "count": 3}],
        [{"host": HOST, "has_path": True, "count": 17}, {"host": HOST, "has_path": True, "count": 17}],
    ):
        found = evidence(probes=nothing, others=others)
        assert "path" not in said(found, "fault")
        assert "asked" in said(found, "unsure")


def test_a_redirect_to_the_knock_page_is_no_fault() -> None:
    led = Reply(302, server="nginx", location="https://knock.example.com/")
    found = {name: Probe(PATH, led, [question()]) for name in NAMES}
    assert not said(evidence(probes=found, front=led), "fault")
    assert "led to https://knock.example.com/" in said(evidence(probes=found, front=led), "unsure")["refusals"]


@pytest.mark.parametrize("host", ["app.example.com.", "APP.example.com", "2001:db8::1"])
def test_a_host_is_the_same_however_it_is_written(host: str) -> None:
    named = {"2001:db8::1": "[2001:db8::1]"}.get(host, HOST)
    found = {name: Probe(PATH, CADDY, [question(host=named)]) for name in NAMES}
    assert not said(evidence(host=host, probes=found), "fault")


def test_a_site_that_hangs_or_cuts_off_a_body_itself_is_not_blamed_for_it() -> None:
    hangs = {name: Probe(PATH, Reply(0, "nothing came in time"), [question()]) for name in NAMES}
    assert "body" not in said(evidence(probes=hangs), "fault")
    assert "body" not in said(evidence(probes=probes(body=Probe(PATH, Reply(0, "reset"), [question()]))), "fault")


def test_the_odd_paths_are_the_same_ones_everywhere() -> None:
    assert tuple(ODD) == ODD_PATHS


@pytest.mark.parametrize(
    ("seen", "server", "proxy"),
    [
        ({}, "openresty", "nginx"),
        ({"allowed": True}, "Kestrel 1.1 Caddy", "caddy"),
        ({}, "Caddy", "caddy"),
        ({}, "nginx/1.31.3", "nginx"),
        ({}, "envoy", "envoy"),
        ({"path_in_target": True, "method": None}, "", "envoy"),
        ({"headers": ["Accept-Encoding", "Host"]}, "", "traefik"),
        ({"headers": ["Host"], "closes": True}, "", "haproxy"),
    ],
)
def test_what_mends_it_is_told_for_the_proxy_that_is_there(seen: dict[str, Any], server: str, proxy: str) -> None:
    control = Probe(PATH, Reply(401, server=server), [question(host=None, **seen)])
    found = evidence(probes=probes(control=control), front=Reply(401))
    assert f"-> {proxy}: " in said(found, "fault")["host"]
    assert "-> traefik: " in said(replace(found, proxy="traefik"), "fault")["host"]


@pytest.mark.parametrize("problem", _REMEDIES)
def test_each_remedy_names_its_proxy_and_without_one_all_of_them(problem: str) -> None:
    for proxy in set(PROXIES) & set(_REMEDIES[problem]):
        assert remedy(problem, proxy).startswith(f"{proxy}: ")
        assert remedy(problem, proxy) in remedy(problem, "")
