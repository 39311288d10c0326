"""`knocker doctor` is silent on every recipe, and finds each known mistake with the real proxies."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LONG
from tests.net import CDN, HOME, SERVER, SERVER_6, Bench
from tests.proxies.conftest import APP_PORT, KEYS, Builder, Gateway, settings
from tests.proxies.recipes import FOLDER, RECIPES, all_but
from tests.service import SCRIPTS, replaced

Edits = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Told:
    """What doctor said."""

    status: int
    findings: list[dict[str, str]]
    errors: str

    def of(self, *levels: str) -> dict[str, str]:
        """The findings of these levels: what each says, by its check."""
        return {found["check"]: found["text"] for found in self.findings if found["level"] in levels}

    def mend(self, check: str) -> str:
        """What helps."""
        return next(found["mend"] for found in self.findings if found["check"] == check and found["level"] != "ok")


def doctor(
    gateway: Gateway,
    *options: str,
    key: str = "admin",
    text: bool = False,
    addresses: Sequence[str] = (SERVER, SERVER_6),
    clock: str = "",
) -> Any:
    """Run it as a visitor's machine would, whose names are in /etc/hosts, and whose clock may be off."""
    folder = gateway.proxy.directory
    hosts = folder / "hosts"
    names = f"{gateway.recipe.app_host} {gateway.recipe.knock_host}"
    hosts.write_text("".join(f"{address} {names}\n" for address in addresses))
    trusted = [path for path in (folder / "fullchain.pem", *folder.glob("pki/authorities/*/root.crt")) if path.exists()]
    base = f"{gateway.recipe.scheme}://{{}}:{gateway.proxy.port}"
    environment = {
        **os.environ,
        "HOME": str(folder),
        "KNOCKER_KEY": KEYS.get(key, "a-key-that-nobody-has-0123"),
        "KNOCKER_URL": base.format(gateway.recipe.knock_host),
        **({"SSL_CERT_FILE": str(trusted[0])} if trusted else {}),
    }
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    options = (*([] if text else ["--json"]), *options, base.format(gateway.recipe.app_host))
    late = ["faketime", "-f", clock] if clock else []
    command = ["unshare", "--mount", "sh", "-c", script, str(hosts), *late, str(SCRIPTS / "knocker"), "doctor"]
    done = subprocess.run(
        [*gateway.bench.client, *command, *options],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    if text:
        return done
    findings = json.loads(done.stdout)["findings"] if done.stdout.startswith("{") else []
    return Told(done.returncode, findings, done.stderr)


@pytest.fixture
def gate(build: Builder) -> Callable[..., Gateway]:
    """Starts a recipe, with changes in it and in knocker.yaml, where the machine that doctor runs on is a stranger."""

    def start(
        name: str, edits: Edits | None = None, app: int = APP_PORT, limited: bool = False, **server: Any
    ) -> Gateway:
        told = dict(settings(RECIPES[name].app_host))
        told["security"] = {**told["security"], "always_allowed_ips": [CDN]}
        if limited:
            del told["security"]["knock_rate_limit"]
        told["server"] = {**told["server"], **server}
        inside = None if edits or server else CDN  # a mistake may be that nobody gets in
        return build.gateway(name, app, build.knocker(told), edits or {}, inside)

    return start


@pytest.mark.parametrize(
    "name", [name for name in all_but("caddy", "traefik", "haproxy", "envoy") if name != "caddy-first"]
)
def test_it_finds_nothing_wrong_with_a_recipe_and_leaves_nothing_behind(
    gate: Callable[..., Gateway], name: str
) -> None:
    gateway = gate(name)
    told = doctor(gateway)
    assert not told.of("fault", "advice", "unsure"), told
    assert told.status == 0
    assert {"gate", "clock", "families", "asked", "client", "forgeries", "paths"} <= set(told.of("ok"))
    assert any(network in told.of("ok")["client"] for network in ("198.51.100.", "2001:db8:88:"))
    listed = gateway.ask_knocker("/grants", HOME, "-H", f"X-Api-Key: {KEYS['admin']}").json()
    assert listed["grants"] == []
    assert "granted" not in gateway.knocker.log


@dataclass(frozen=True)
class Wrong:
    """A mistake: the recipe, what is changed in its files and in knocker.yaml, and what must be found."""

    name: str
    edits: Edits
    faults: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    words: str = ""  # of what mends the first of them
    server: tuple[tuple[str, Any], ...] = ()
    texts: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()


def _question(text: str) -> str:
    """The location of nginx.conf in which Knocker is asked."""
    begin = text.index("location = /_knocker")
    return text[begin : text.index("\n\t}", begin)]


def nginx(*without: str, passing: bool = False, swap: tuple[str, str] = ("", "")) -> Edits:
    """The recipe without these lines of the question; `passing`: with the client's own headers."""
    block = _question((FOLDER / "nginx.conf").read_text())
    lines = [line for line in block.splitlines() if not any(line.strip().startswith(start) for start in without)]
    assert len(block.splitlines()) - len(lines) == len(without)
    changed = "\n".join(lines)
    if passing:
        changed = replaced(changed, {"proxy_pass_request_headers off;": ""})
    if swap[0]:
        changed = replaced(changed, {swap[0]: swap[1]})
    return {"nginx.conf": {block: changed}}


FOR, HOST, URI = "x-forwarded-for", "x-forwarded-host", "x-forwarded-uri"
LINE = "proxy_set_header X-Forwarded-"
KNOCKING = "\n\t\tproxy_set_header X-Forwarded-Host $host;\n\t\tproxy_set_header X-Api-Key"
INSECURE = {"traefik-static.yaml": {"    http:\n": "    forwardedHeaders:\n      insecure: true\n    http:\n"}}
TRUST = {"trustForwardHeader: false": "trustForwardHeader: true"}
BARE = {
    "[no-forgeries, knocker]": "[knocker]",
    "[no-forgeries, not-knockers, small-body]": "[not-knockers, small-body]",
}
ALLOWED = ", ".join(
    f"{{ exact: {name} }}" for name in ("accept", "accept-language", "sec-fetch-mode", "x-forwarded-proto")
)
STRIPPED = "".join(
    f"\n{' ' * 24}- remove: {name}"
    for name in (
        *("x-forwarded-for", "x-forwarded-host", "x-forwarded-method", "x-forwarded-uri", "x-original-method"),
        *("x-original-uri", "x-original-url", "x-rewrite-url", "x-real-ip", "forwarded"),
    )
)
KEPT = f"\n{' ' * 24}- remove: x-nothing"
ENVOY_HOST = "\n" + " " * 28 + '- { key: x-forwarded-host, value: "%REQ(:authority)%" }'
FRONT = "\tlocation = / {\n\t\tproxy_pass http://127.0.0.1:8096;\n\t}\n"
IPV4 = "\tif ($remote_addr ~ [.]) {\n\t\treturn 200;\n\t}"
CLIENTS = ["127.0.0.1", "::1", "198.51.100.0/24", "2001:db8:88::/48"]

WRONG = {
    "nginx does not say who asks": Wrong(
        "nginx", nginx(f"{LINE}For"), ("client",), words="X-Forwarded-For $remote_addr"
    ),
    "nginx passes on who asks": Wrong(
        "nginx", nginx(f"{LINE}For", passing=True), (FOR, "client"), words="$remote_addr"
    ),
    "nginx does not name the host": Wrong("nginx", nginx(f"{LINE}Host"), ("host",), words="X-Forwarded-Host $host"),
    "nginx passes on the host": Wrong("nginx", nginx(f"{LINE}Host", passing=True), (HOST, "host"), words="$host"),
    "nginx does not name the path": Wrong("nginx", nginx(f"{LINE}Uri"), ("path",), words="$request_uri"),
    "nginx passes on the path": Wrong("nginx", nginx(f"{LINE}Uri", passing=True), (URI, "path"), words="$request_uri"),
    "nginx does not name the method": Wrong("nginx", nginx(f"{LINE}Method"), (), ("method",), "$request_method"),
    "nginx passes on the method": Wrong(
        "nginx", nginx(f"{LINE}Method", passing=True), (), ("method", "needless"), "$request_method"
    ),
    "nginx passes on all else": Wrong(
        "nginx", nginx(passing=True), (), ("x-original-uri", "needless"), "proxy_pass_request_headers off"
    ),
    "nginx announces a body": Wrong(
        "nginx", nginx("proxy_set_header Content-Length"), ("body",), words='Content-Length ""'
    ),
    # As nginx did by itself before 1.29.7.
    "nginx opens a connection for each question": Wrong(
        "nginx",
        nginx(swap=('proxy_set_header Connection ""', "proxy_set_header Connection close")),
        (),
        ("connections",),
        'Connection ""',
    ),
    "nginx names its own location": Wrong(
        "nginx", nginx(swap=("Uri $request_uri", "Uri $uri")), ("path",), words="$request_uri"
    ),
    "nginx decodes the path": Wrong(
        "nginx",
        {
            "nginx.conf": {
                "auth_request /_knocker;": "set $asked $uri;\n\t\tauth_request /_knocker;",
                "X-Forwarded-Uri $request_uri;\n\t}\n}\n\n# Where people": (
                    "X-Forwarded-Uri $asked;\n\t}\n}\n\n# Where people"
                ),
            }
        },
        ("paths",),
        words="never `$uri`",
        texts=("a line break in a path began a header of the client's own",),
    ),
    "nginx names the path by another header": Wrong(
        "nginx",
        nginx(swap=("X-Forwarded-Uri $request_uri", "X-Original-URI $request_uri")),
        ("path",),
        words="$request_uri",
    ),
    "nginx believes the Host line, whatever site it chose": Wrong(
        "nginx", nginx(swap=("Host $host", "Host $http_host")), (HOST,), words="X-Forwarded-Host $host"
    ),
    "nginx takes addresses from a header that anybody may write": Wrong(
        "nginx",
        {
            "nginx.conf": {
                "\nssl_certificate ": "\nset_real_ip_from 0.0.0.0/0;\nset_real_ip_from ::/0;"
                "\nreal_ip_header CF-Connecting-IP;\nssl_certificate "
            }
        },
        ("x-real-ip",),
        words="$remote_addr",
    ),
    "nginx does not ask for the first page": Wrong(
        "nginx",
        {"nginx.conf": {"\tlocation / {\n\t\tauth_request": f"{FRONT}\tlocation / {{\n\t\tauth_request"}},
        ("opened",),
        words="auth_request",
    ),
    "nginx does not ask for who comes by IPv4": Wrong(
        "nginx",
        {"nginx.conf": {"\tserver_name app.example.com;": f"\tserver_name app.example.com;\n{IPV4}"}},
        ("families",),
        words="auth_request",
    ),
    "nginx does not ask": Wrong(
        "nginx", {"nginx.conf": {"auth_request /_knocker;": ""}}, ("asked",), words="auth_request"
    ),
    "nginx believes who knocks": Wrong(
        "nginx",
        {"nginx.conf": {f"For $remote_addr;{KNOCKING}": f"For $http_x_forwarded_for;{KNOCKING}"}},
        ("knock-host", "gate"),
        words="in the knock host's location",
    ),
    "Traefik trusts everybody": Wrong(
        "traefik", {**INSECURE, "traefik.yaml": TRUST}, (), (FOR,), "trustForwardHeader: false"
    ),
    "Traefik trusts everybody, and strips nothing": Wrong(
        "traefik", {**INSECURE, "traefik.yaml": TRUST | BARE}, (HOST, URI), (FOR,), "insecure: true"
    ),
    "Traefik passes on everything": Wrong(
        "traefik",
        {"traefik.yaml": {"        authRequestHeaders: [Accept, Accept-Language, Sec-Fetch-Mode]\n": ""}},
        (),
        ("needless",),
        "authRequestHeaders",
    ),
    "Traefik does not ask": Wrong(
        "traefik", {"traefik.yaml": {"[no-forgeries, knocker]": "[no-forgeries]"}}, ("asked",), words="middlewares"
    ),
    "Envoy passes on what looks like a proxy's": Wrong(
        "envoy",
        {"envoy.yaml": {ALLOWED: "{ prefix: x-forwarded- }, { prefix: x-original- }", STRIPPED: KEPT}},
        (),
        (URI, "x-original-uri", "method"),
        "allowed_headers",
    ),
    "Envoy passes on what looks like a proxy's, and names no host itself": Wrong(
        "envoy",
        {"envoy.yaml": {ALLOWED: "{ prefix: x-forwarded- }", STRIPPED: KEPT, ENVOY_HOST: ""}},
        (HOST, "host"),
        words="x-forwarded-host: %REQ(:authority)%",
    ),
    "Caddy does not ask": Wrong(
        "caddy", {"Caddyfile": {"\timport knocker_auth\n": ""}}, ("asked",), words="import knocker_auth"
    ),
    "Caddy passes on cookies": Wrong(
        "caddy",
        {"Caddyfile": {"\t\theader_up -Cookie\n\t\theader_up -Authorization\n\t\theader_up -X-Real-IP\n": ""}},
        (),
        ("needless",),
        "header_up -Cookie",
    ),
    "Caddy trusts everybody": Wrong(
        "caddy",
        {
            "Caddyfile": {
                "\tservers {\n": "\tservers {\n\t\ttrusted_proxies static 0.0.0.0/0 ::/0\n",
                "header_up X-Forwarded-Host {hostport}": "header_up X-Forwarded-For {client_ip}",
            }
        },
        (FOR, HOST),
        words="trusted_proxies",
    ),
    "HAProxy does not ask": Wrong(
        "haproxy",
        {
            "haproxy.cfg": {
                "\thttp-request lua.ask_knocker unless to_knock\n": "",
                "deny_status 503 if !to_knock !{ var(txn.knocker) -m int 200 }": "deny_status 503 if { always_false }",
            }
        },
        ("asked",),
        words="lua.ask_knocker",
    ),
    "HAProxy believes who asks": Wrong(
        "haproxy",
        {
            "haproxy.cfg": {
                "x[-_](forwarded|original": "x[-_](original",
                "\thttp-request set-header X-Forwarded-For %[src]\n": "",
            },
            "knocker.lua": {"txn.sf:src()": 'txn.sf:req_hdr("x-forwarded-for")'},
        },
        (FOR, "client"),
        words="txn.sf:src()",
        unsure=("gate",),
    ),
    "the proxy is missing in trusted_proxies": Wrong(
        "caddy",
        {},
        ("gate", "trusted_proxies"),
        words='add "127.0.0.1" to server.trusted_proxies',
        server=(("trusted_proxies", ["203.0.113.1"]),),
    ),
    "visitors are in trusted_proxies": Wrong(
        "nginx", {}, ("gate", "client"), words="none that a visitor can have", server=(("trusted_proxies", CLIENTS),)
    ),
    "visitors are in trusted_proxies, and the proxy adds to what they say": Wrong(
        "nginx",
        nginx(swap=("X-Forwarded-For $remote_addr", "X-Forwarded-For $proxy_add_x_forwarded_for")),
        (FOR, "gate", "client"),
        words="$remote_addr",
        server=(("trusted_proxies", CLIENTS),),
    ),
}


@pytest.mark.parametrize("mistake", WRONG if LONG else list(WRONG)[::8])
def test_each_mistake_is_found_and_what_mends_it_is_named(gate: Callable[..., Gateway], mistake: str) -> None:
    wrong = WRONG[mistake]
    gateway = gate(wrong.name, wrong.edits, **dict(wrong.server))
    told = doctor(gateway)
    assert set(told.of("fault")) == set(wrong.faults), told
    assert set(wrong.advice) <= set(told.of("advice")), told
    assert (told.status == 1) == bool(wrong.faults), told
    assert wrong.words in told.mend((*wrong.faults, *wrong.advice)[0]), told
    assert set(wrong.unsure) <= set(told.of("unsure")), told
    assert all(any(text in found for found in told.of("fault").values()) for text in wrong.texts), told


def test_a_line_that_this_nginx_does_not_need_is_not_missed(gate: Callable[..., Gateway]) -> None:
    """Since 1.29.7 it keeps its connections by itself."""
    told = doctor(gate("nginx", nginx("proxy_set_header Connection")))
    assert (told.status, told.of("fault", "advice", "unsure")) == (0, {})


def test_a_person_reads_it_line_by_line(gate: Callable[..., Gateway]) -> None:
    gateway = gate("caddy-ours", {}, trusted_proxies=["203.0.113.1"])
    done = doctor(gateway, text=True)
    assert done.returncode == 1
    assert "FAULT   the proxy asks from 127.0.0.1, which is not in server.trusted_proxies" in done.stdout
    assert '\n        -> add "127.0.0.1" to server.trusted_proxies' in done.stdout
    assert KEYS["admin"] not in done.stdout + done.stderr


def test_where_doctor_is_let_in_itself_it_says_what_it_could_not_see(gate: Callable[..., Gateway]) -> None:
    gateway = gate("caddy-ours")
    mine = doctor(gateway).of("ok")["client"].split()[6].rstrip(":")
    assert gateway.knock(HOME, "-d", json.dumps({"ip_address": mine}), key="admin").status == 200
    told = doctor(gateway)
    assert told.status == 0
    assert not told.of("fault", "advice")
    assert "is let in" in told.of("unsure")["refusals"]


def test_an_address_over_which_nothing_answers_is_named(gate: Callable[..., Gateway]) -> None:
    gateway = gate("caddy-ours")
    told = doctor(gateway, addresses=[SERVER, "2001:db8:88::dead"])
    assert told.status == 1
    assert list(told.of("fault")) == ["families"]
    assert "has an IPv6 address, but there is no answer over it, while IPv4 works" in told.of("fault")["families"]


def test_who_is_refused_may_be_led_to_the_knock_page(gate: Callable[..., Gateway]) -> None:
    led = "location @knock {\n\t\treturn 302 https://knock.example.com/;\n\t}\n\n"
    edits = {
        "auth_request /_knocker;": "auth_request /_knocker;\n\t\terror_page 401 = @knock;",
        "\tlocation = /_knocker {": f"\t{led}\tlocation = /_knocker {{",
    }
    told = doctor(gate("nginx", {"nginx.conf": edits}))
    assert not told.of("fault")
    assert "led to https://knock.example.com/" in told.of("unsure")["refusals"]


if LONG:  # each takes long, and tells little that the others do not

    def test_an_address_that_swallows_all_costs_a_few_seconds_once(gate: Callable[..., Gateway], bench: Bench) -> None:
        """A packet filter that drops, at an address that DNS has for the gate as for the app."""
        gateway = gate("caddy-ours")
        link = subprocess.run(
            [*bench.server, "ip", "-j", "link", "show", "eth0"], capture_output=True, check=True, timeout=5
        )
        nobody = ["2001:db8:88::beef", "lladdr", json.loads(link.stdout)[0]["address"], "dev", "eth0"]
        subprocess.run([*bench.client, "ip", "neigh", "replace", *nobody], check=True, timeout=5)
        told = doctor(gateway, addresses=[nobody[0], SERVER])
        assert list(told.of("fault")) == ["families"]
        assert "has an IPv6 address, but there is no answer over it, while IPv4 works" in told.of("fault")["families"]

    def test_doctor_may_be_run_again_and_again(gate: Callable[..., Gateway]) -> None:
        """A few times a minute, by the limits that are the default."""
        gateway = gate("caddy-ours", limited=True)
        for _ in range(4):
            assert doctor(gateway).status == 0

    def test_a_slow_site_outlasts_a_canary(build: Builder, gate: Callable[..., Gateway]) -> None:
        slow = build.python(Path(__file__).parent / "slow.py", "4")
        gateway = gate("caddy-ours", app=slow.port)
        for address in (HOME, "2001:db8:88:7d0::10"):
            gateway.knock(HOME, "-d", json.dumps({"ip_address": address}), key="admin")
        told = doctor(gateway)
        assert not told.of("fault", "advice"), told
        assert "this machine is let in" in told.of("unsure")["refusals"], "or the app would not have been slow"
        assert {"asked", "forgeries", "paths"} <= set(told.of("ok"))


def test_a_client_that_may_not_be_granted_is_told(gate: Callable[..., Gateway]) -> None:
    """As where everybody comes by one address of Docker's."""
    gateway = gate("caddy-ours", shared_addresses=["198.51.100.0/24", "2001:db8:88::/48"])
    assert "it belongs to server.shared_addresses" in doctor(gateway).of("fault")["gate"]


def test_a_clock_that_is_off_is_named(gate: Callable[..., Gateway]) -> None:
    told = doctor(gate("caddy-ours"), clock="-100s")
    assert told.status == 1
    assert re.search("the gate's clock is (99|100|101) s ahead of this machine's", told.of("fault")["clock"])


@pytest.mark.parametrize(
    ("key", "status", "error", "hint"),
    [
        ("phone", 1, "doctor needs an admin's key", "allow_remote_whitelist: true"),
        ("nobody", 1, "the gate refused: Invalid or missing API key.", "the key came from $KNOCKER_KEY"),
    ],
)
def test_without_an_admins_key_it_says_so(
    gate: Callable[..., Gateway], key: str, status: int, error: str, hint: str
) -> None:
    told = doctor(gate("caddy-ours"), key=key)
    assert told.status == status
    assert f"knocker: error: {error}" in told.errors
    assert hint in told.errors


def test_a_knock_host_that_publishes_no_canaries_is_named(gate: Callable[..., Gateway]) -> None:
    gateway = gate("caddy")
    edits = {"Caddyfile": {" /canaries /canaries/*": ""}}
    older = gate("caddy", edits)
    told = doctor(older)
    assert told.status == 1
    assert "has no canaries" in told.errors
    assert "@public" in told.errors
    assert doctor(gateway).status == 0


def test_a_site_that_asks_another_gate_is_not_taken_for_ours(gate: Callable[..., Gateway]) -> None:
    gateway, other = gate("caddy-ours"), gate("caddy-ours")
    told = doctor(gateway, "--gate", f"http://{other.recipe.knock_host}:{other.proxy.port}")
    assert told.status == 3
    assert "another gate or a login may stand there" in told.of("unsure")["asked"]
