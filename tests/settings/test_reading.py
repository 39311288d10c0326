"""Every setting's rule, and every fault of a file at once."""

from __future__ import annotations

import hashlib

import pytest

from knocker.core.addresses import Address, Network
from knocker.core.limits import Limit
from knocker.settings import Deny, Faulty, Logging, Security, Server, Settings, Storage, UnixSocket, parse

KEY, KEY_2 = "Xy7kQ2mZ9pLw4RtB8s", "Hn5cV1jD6gFa3UeS0o"
GOOD = f"api_keys: [{{key: {KEY}, ttl: 60}}]\n"


def read(text: str) -> Settings:
    return parse(text.encode(), "knocker.yaml")


def faults_of(text: str) -> list[str]:
    with pytest.raises(Faulty) as caught:
        read(text)
    assert all(fault.startswith("knocker.yaml: ") for fault in caught.value.faults)
    return [fault.removeprefix("knocker.yaml: ") for fault in caught.value.faults]


def test_only_api_keys_is_required_and_the_rest_has_the_promised_defaults() -> None:
    settings = read(GOOD)
    server, storage, security = settings.server, settings.storage, settings.security
    assert (server.host, server.port, server.max_connections) == ("0.0.0.0", 8000, 1024)
    assert (server.trusted_proxies.members, server.shared_addresses.members) == ((), ())
    assert server.allow_loopback_clients is False
    assert storage == Storage("whitelist.json", cleanup_interval_seconds=60, max_entries=10000)
    assert security.always_allowed_ips.members == ()
    assert (security.exclusions.everywhere, security.exclusions.by_host) == ((), {})
    assert (security.deny, security.deny_by_host, settings.cors_origin) == (Deny(401), {}, "*")
    key = settings.keys[0]
    assert (key.name, key.ttl, key.max_ttl, key.admin, key.hosts, key.ipv6_prefix) == (
        "key-1",
        60,
        60,
        False,
        None,
        128,
    )
    assert key.digest == hashlib.sha256(KEY.encode()).digest()
    assert settings.warnings == ()
    assert isinstance(server, Server)
    assert isinstance(security, Security)


def test_a_file_that_says_everything_is_read() -> None:
    settings = read(f"""
server:
  host: "::"
  port: 9000
  trusted_proxies: ["127.0.0.1", "::1", "172.16.238.0/24", "::ffff:10.1.0.0/112"]
  shared_addresses: ["172.20.0.1"]
  max_connections: 10
whitelist: {{storage_path: /data/whitelist.json, cleanup_interval_seconds: 5, max_entries: 7, ipv6_prefix: 64}}
api_keys:
  - {{name: phone, key: "{KEY}", ttl: 3600, max_ttl: 86400, hosts: [Jellyfin.example.com, "*.example.org"]}}
  - {{key_sha256: "{hashlib.sha256(KEY_2.encode()).hexdigest().upper()}", max_ttl: 600, allow_remote_whitelist: true,
     ipv6_prefix: 128, udp_secret: "{"ab" * 32}"}}
security:
  always_allowed_ips: ["192.168.1.0/24", "2001:db8::/32"]
  excluded_paths: ["/api/v1/status", "/metrics"]
  excluded_paths_by_host: {{App.example.com: ["/health"]}}
  deny: {{status: 403}}
  deny_by_host: {{app.example.com: {{status: 401}}, other.example.com: {{}}}}
knock_page: {{url: "https://knock.example.com", also: ["https://v4.knock.example.com/"]}}
cors: {{allowed_origin: "https://app.example.com"}}
""")
    assert (settings.server.host, settings.server.port, settings.server.max_connections) == ("::", 9000, 10)
    for inside in ("127.0.0.1", "::1", "172.16.238.9", "10.1.255.1"):
        assert Address.parse(inside) in settings.server.trusted_proxies
    assert settings.storage == Storage("/data/whitelist.json", 5, 7)
    phone, admin = settings.keys
    assert (phone.name, phone.ttl, phone.max_ttl, phone.ipv6_prefix) == ("phone", 3600, 86400, 64)
    assert phone.hosts is not None
    assert "jellyfin.example.com" in phone.hosts
    assert "a.example.org" in phone.hosts
    assert (admin.name, admin.ttl, admin.max_ttl, admin.admin, admin.ipv6_prefix) == ("key-2", 600, 600, True, 128)
    assert admin.digest == hashlib.sha256(KEY_2.encode()).digest()
    assert settings.security.exclusions.cover("/health", "app.example.com")
    assert settings.security.exclusions.cover("/metrics/x", None)
    assert settings.security.deny == Deny(403)
    assert settings.security.deny_by_host == {"app.example.com": Deny(401), "other.example.com": Deny(403)}
    assert settings.knock_page.hosts == {"knock.example.com", "v4.knock.example.com"}
    assert settings.cors_origin == "https://app.example.com"


def test_every_fault_is_listed_at_once_with_its_path() -> None:
    faults = faults_of("""
server: {prot: 1, port: 0, host: localhost, trusted_proxies: [10.0.0.0/8, 10.0.0.300], allow_loopback_clients: 1}
whitelist: {max_entries: -1}
api_keys: [{key: short, ttl: abc}, {ttl: 5}, text]
security: {excluded_paths: [/ok, "/a%2fb"], deny: {status: 404}}
cors: none
""")
    assert [fault.partition(": ")[0] for fault in faults] == [
        "server",
        "server.port",
        "server.host",
        "server.trusted_proxies[1]",
        "server.allow_loopback_clients",
        "whitelist.max_entries",
        "security.excluded_paths[1]",
        "security.deny.status",
        "cors",
        "api_keys[0].key",
        "api_keys[0].ttl",
        "api_keys[1].key",
        "api_keys[2]",
    ]


def test_a_repeated_name_or_secret_is_listed_beside_the_other_faults() -> None:
    faults = faults_of(f"""
api_keys:
  - {{name: a, key: {KEY}, ttl: -1}}
  - {{name: a, key: {KEY}, ttl: 60}}
""")
    assert [fault.partition(": ")[0] for fault in faults] == ["api_keys[0].ttl", "api_keys[1].name", "api_keys[1].key"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(
            "server: {trusted_proxy: []}",
            "server: unknown setting trusted_proxy; did you mean trusted_proxies?",
            id="a near one",
        ),
        pytest.param("server: {excluded_paths: []}", "did you mean security.excluded_paths?", id="in another section"),
        pytest.param("trusted_proxies: []", "did you mean server.trusted_proxies?", id="outside its section"),
        pytest.param("servers: {}", "did you mean server?", id="a section"),
        pytest.param("server: {api_keys: []}", "did you mean api_keys without an indent?", id="a section in a section"),
        pytest.param(
            "security: {deny: {statuss: 401}}",
            "security.deny: unknown setting statuss; did you mean status?",
            id="further down",
        ),
        pytest.param("api_keys: [{maxttl: 5}]", "did you mean max_ttl?", id="of a key"),
        pytest.param("quux: 1", "unknown setting quux", id="near nothing"),
        pytest.param("1: 1", "whose name is not a plain word", id="a number"),
        pytest.param("'a b': 1", "whose name is not a plain word", id="two words"),
        pytest.param("null: 1", "whose name is not a plain word", id="nothing"),
    ],
)
def test_an_unknown_setting_is_a_fault_that_names_the_nearest_known_one(text: str, words: str) -> None:
    assert any(words in fault for fault in faults_of(text))


@pytest.mark.parametrize(
    ("section", "path"),
    [
        pytest.param("server: []", "server", id="a list for a section"),
        pytest.param("server: text", "server", id="a text for a section"),
        pytest.param("server: {host: localhost}", "server.host", id="a name to listen on"),
        pytest.param("server: {host: 1}", "server.host", id="a number to listen on"),
        pytest.param("server: {host: 'fe80::1%eth0'}", "server.host", id="a zone to listen on"),
        pytest.param("server: {port: 65536}", "server.port", id="a port too large"),
        pytest.param("server: {port: true}", "server.port", id="true is no port"),
        pytest.param("server: {port: null}", "server.port", id="nothing is no port"),
        pytest.param("server: {max_connections: 0}", "server.max_connections", id="no connections"),
        pytest.param(
            "server: {allow_loopback_clients: 'true'}", "server.allow_loopback_clients", id="a text for a switch"
        ),
        pytest.param("server: {trusted_proxies: 10.0.0.1}", "server.trusted_proxies", id="a text for a list"),
        pytest.param("server: {trusted_proxies: null}", "server.trusted_proxies", id="nothing for a list"),
        pytest.param(
            "server: {trusted_proxies: [1]}", "server.trusted_proxies[0]", id="a number, which ipaddress takes"
        ),
        pytest.param("server: {trusted_proxies: [true]}", "server.trusted_proxies[0]", id="true, which it takes too"),
        pytest.param("server: {trusted_proxies: [caddy]}", "server.trusted_proxies[0]", id="a name for an address"),
        pytest.param("server: {trusted_proxies: [10.0.0.0/255.0.0.0]}", "server.trusted_proxies[0]", id="a netmask"),
        pytest.param("server: {trusted_proxies: [0.0.0.0/0]}", "server.trusted_proxies[0]", id="everybody trusted"),
        pytest.param("server: {trusted_proxies: ['::/0']}", "server.trusted_proxies[0]", id="everybody trusted, IPv6"),
        pytest.param(
            "server: {trusted_proxies: ['::ffff:0:0/96']}", "server.trusted_proxies[0]", id="everybody, mapped"
        ),
        pytest.param(
            "server: {trusted_proxies: [1.2.3.4/0]}", "server.trusted_proxies[0]", id="everybody, with host bits"
        ),
        pytest.param("server: {trusted_proxies: [unix]}", "server.trusted_proxies", id="unix without a unix socket"),
        pytest.param(
            "server: {listen: 'unix:/run/k.sock:mode=666', trusted_proxies: [unix]}",
            "server.trusted_proxies",
            id="a socket where everybody would be believed",
        ),
        pytest.param(
            "server: {listen: 'unix:/run/k.sock', port: 8000}", "server.listen", id="a socket and a port beside it"
        ),
        pytest.param("server: {listen: 8000}", "server.listen", id="a number for an endpoint"),
        pytest.param("server: {listen: ''}", "server.listen", id="no endpoint"),
        pytest.param("server: {listen: /run/k.sock}", "server.listen", id="a path for an endpoint"),
        pytest.param("server: {listen: 'unix:'}", "server.listen", id="a socket without a path"),
        pytest.param("server: {listen: 'unix:/run/'}", "server.listen", id="a folder for a socket"),
        pytest.param(f"server: {{listen: 'unix:/{'x' * 107}'}}", "server.listen", id="a path too long for a socket"),
        pytest.param("server: {listen: 'unix:/run/k.sock:mode=rw'}", "server.listen", id="a mode that is none"),
        pytest.param("server: {listen: 'unix:/run/k.sock:mode=668'}", "server.listen", id="a mode that is not octal"),
        pytest.param("server: {listen: 'unix:/run/k.sock:lockfile=1'}", "server.listen", id="what we do ourselves"),
        pytest.param("server: {listen: 'unix:/k:mode=660:mode=666'}", "server.listen", id="a mode twice"),
        pytest.param("server: {listen: 'tcp:http'}", "server.listen", id="a port by name"),
        pytest.param("server: {listen: 'tcp:8000:interface=localhost'}", "server.listen", id="an interface by name"),
        pytest.param("server: {listen: 'tcp:0'}", "server.listen", id="any port"),
        pytest.param(
            "server: {listen: 'hap\\roxy:tcp:8000'}", "server.listen", id="the same, as Twisted unquotes its name"
        ),
        pytest.param(
            "server: {listen: 'haproxy:tcp:8000'}", "server.listen", id="an endpoint that lets peers claim addresses"
        ),
        pytest.param("server: {shared_addresses: [x]}", "server.shared_addresses[0]", id="a bad shared address"),
        pytest.param("whitelist: {storage_path: ''}", "whitelist.storage_path", id="no path"),
        pytest.param("whitelist: {storage_path: 5}", "whitelist.storage_path", id="a number for a path"),
        pytest.param('whitelist: {storage_path: "a\\0b"}', "whitelist.storage_path", id="a NUL in a path"),
        pytest.param(
            "whitelist: {cleanup_interval_seconds: 0}", "whitelist.cleanup_interval_seconds", id="no interval"
        ),
        pytest.param("whitelist: {max_entries: 1.5}", "whitelist.max_entries", id="one and a half entries"),
        pytest.param("whitelist: {ipv6_prefix: 47}", "whitelist.ipv6_prefix", id="a prefix too short"),
        pytest.param("whitelist: {ipv6_prefix: 129}", "whitelist.ipv6_prefix", id="a prefix too long"),
        pytest.param(
            "whitelist: {max_entries: 5}\nsecurity: {max_whitelist_entries: 6}",
            "security.max_whitelist_entries",
            id="two limits that differ",
        ),
        pytest.param(
            "security: {always_allowed_ips: [0.0.0.0/0]}", "security.always_allowed_ips[0]", id="everybody allowed"
        ),
        pytest.param(
            "security: {always_allowed_ips: ['::/0']}", "security.always_allowed_ips[0]", id="everybody allowed, IPv6"
        ),
        pytest.param("security: {excluded_paths: /metrics}", "security.excluded_paths", id="a path for a list"),
        pytest.param("security: {excluded_paths: ['']}", "security.excluded_paths[0]", id="an empty path"),
        pytest.param("security: {excluded_paths: ['/']}", "security.excluded_paths[0]", id="the root"),
        pytest.param("security: {excluded_paths: ['*']}", "security.excluded_paths[0]", id="a star"),
        pytest.param("security: {excluded_paths: ['/*']}", "security.excluded_paths[0]", id="the root and a star"),
        pytest.param("security: {excluded_paths: [metrics]}", "security.excluded_paths[0]", id="no leading slash"),
        pytest.param("security: {excluded_paths: ['/a;b']}", "security.excluded_paths[0]", id="what could never match"),
        pytest.param("security: {excluded_paths: [5]}", "security.excluded_paths[0]", id="a number for a path"),
        pytest.param(
            "security: {excluded_paths_by_host: [/a]}", "security.excluded_paths_by_host", id="a list for a mapping"
        ),
        pytest.param(
            "security: {excluded_paths_by_host: {'a.example:80': [/a]}}",
            "security.excluded_paths_by_host",
            id="a host with a port",
        ),
        pytest.param(
            "security: {excluded_paths_by_host: {'*.example': [/a]}}",
            "security.excluded_paths_by_host",
            id="a host with a star",
        ),
        pytest.param(
            "security: {excluded_paths_by_host: {1: [/a]}}", "security.excluded_paths_by_host", id="a number for a host"
        ),
        pytest.param(
            "security: {excluded_paths_by_host: {a.example: [/]}}",
            "security.excluded_paths_by_host.a.example[0]",
            id="the root of a host",
        ),
        pytest.param(
            "security: {excluded_paths_by_host: {a.example: [/a], A.example: [/b]}}",
            "security.excluded_paths_by_host",
            id="one host twice",
        ),
        pytest.param("security: {deny: {status: 200}}", "security.deny.status", id="a denial that allows"),
        pytest.param("security: {deny: {status: '401'}}", "security.deny.status", id="a status in quotes"),
        pytest.param(
            "security: {deny_by_host: {a.example: {status: 302}}}",
            "security.deny_by_host.a.example.status",
            id="a redirect",
        ),
        pytest.param("cors: {allowed_origin: app.example.com}", "cors.allowed_origin", id="an origin without scheme"),
        pytest.param("cors: {allowed_origin: 'https://a.example/'}", "cors.allowed_origin", id="an origin with a path"),
        pytest.param("cors: {allowed_origin: ['*']}", "cors.allowed_origin", id="a list of origins"),
        pytest.param(
            'cors: {allowed_origin: "https://a\\r\\nX: y"}', "cors.allowed_origin", id="a line break in an origin"
        ),
        pytest.param("knock_page: {url: 'http://knock.example.com'}", "knock_page.url", id="a page without TLS"),
        pytest.param("knock_page: {url: 'https://knock.example.com/knock'}", "knock_page.url", id="a page with a path"),
        pytest.param(
            "knock_page: {url: 'https://knock.example.com:port'}", "knock_page.url", id="a port that is no number"
        ),
        pytest.param("knock_page: {also: ['https://']}", "knock_page.also[0]", id="no host"),
        pytest.param("firewalld: {enabled: true}", "firewalld", id="a firewall"),
        pytest.param("firewalld: {}", "firewalld", id="a firewall, perhaps"),
        pytest.param("udp: {window_seconds: 29}", "udp.window_seconds", id="a window too narrow"),
        pytest.param("udp: {window_seconds: 301}", "udp.window_seconds", id="a window too wide"),
        pytest.param("udp: {host: localhost}", "udp.host", id="a name to listen on, UDP"),
        pytest.param("udp: {port: 0}", "udp.port", id="any UDP port"),
        pytest.param("udp: {realm: [a]}", "udp.realm", id="a list for a realm"),
        pytest.param("udp: {state_path: ''}", "udp.state_path", id="no path for what was seen"),
        pytest.param("udp: {state_path: whitelist.json}", "udp.state_path", id="the whitelist's file"),
        pytest.param("udp: {state_path: ./whitelist.json}", "udp.state_path", id="the same, spelt otherwise"),
        pytest.param("udp: {state_path: whitelist.json.lock}", "udp.state_path", id="its lock"),
        pytest.param("udp: {state_path: whitelist.json.tmp}", "udp.state_path", id="its temporary name"),
        pytest.param("metrics: {enabled: 1}", "metrics.enabled", id="a number for a truth"),
        pytest.param("metrics: {host: localhost}", "metrics.host", id="a name for an address"),
        pytest.param("whitelist: {store: 'http://x'}", "whitelist.store", id="a store of another kind"),
        pytest.param("whitelist: {store: 'redis:///0'}", "whitelist.store", id="a store nowhere"),
        pytest.param("whitelist: {store: 'redis://x:port'}", "whitelist.store", id="a store without a port number"),
        pytest.param("whitelist: {store: 'redis://x/a'}", "whitelist.store", id="a store without a database number"),
        pytest.param("whitelist: {store: 'redis://x?prefix=a:b'}", "whitelist.store", id="a prefix with a colon"),
        pytest.param("whitelist: {store: 'redis://x?db=1'}", "whitelist.store", id="no prefix"),
        pytest.param("whitelist: {store: 'redis://x#y'}", "whitelist.store", id="a store with a fragment"),
        pytest.param("whitelist: {store: 'redis://u:secret-word@x'}", "whitelist.store", id="a password in there"),
        pytest.param("whitelist: {store: 'redis://u@x'}", "whitelist.password_file", id="a user without a password"),
        pytest.param("whitelist: {store: 7}", "whitelist.store", id="a number for a store"),
        pytest.param("whitelist: {min_replicas: 1}", "whitelist.min_replicas", id="replicas of nothing"),
        pytest.param("whitelist: {password_file: x}", "whitelist.password_file", id="a password for nothing"),
        pytest.param("whitelist: {store: 'redis://x', tls_ca_file: x}", "whitelist.tls_ca_file", id="no TLS"),
        pytest.param("api_keys: []", "api_keys", id="no keys"),
        pytest.param("api_keys: null", "api_keys", id="nothing for keys"),
        pytest.param("api_keys: {phone: x}", "api_keys", id="a mapping for keys"),
        pytest.param("cors: {}", "api_keys", id="keys left out"),
    ],
)
def test_a_wrong_value_is_a_fault_at_its_place(section: str, path: str) -> None:
    text = section if "api_keys" in section or section == "cors: {}" else GOOD + section
    assert [fault.partition(": ")[0] for fault in faults_of(text)] == [path]


@pytest.mark.parametrize(
    ("members", "member"),
    [
        pytest.param(f"key: {KEY}", "ttl", id="no ttl"),
        pytest.param("ttl: 60", "key", id="no key"),
        pytest.param(f"key: {KEY}, key_sha256: {'ab' * 32}, ttl: 60", "key", id="two ways to say the key"),
        pytest.param("key: '', ttl: 60", "key", id="an empty key"),
        pytest.param("key: 1234567890123456789, ttl: 60", "key", id="a number for a key"),
        pytest.param("key: [], ttl: 60", "key", id="a list for a key"),
        pytest.param("key: Xy7kQ2mZ9pLw4Rt, ttl: 60", "key", id="15 characters"),
        pytest.param("key: CHANGE_ME_SECRET_PHONE_KEY, ttl: 60", "key", id="the older example's key"),
        pytest.param("key: please-change_me-my-key-1, ttl: 60", "key", id="CHANGE_ME in lower case"),
        pytest.param("key: REPLACE_WITH_A_LONG_KEY, ttl: 60", "key", id="REPLACE_WITH"),
        pytest.param(f'key: "{KEY}\\t", ttl: 60', "key", id="a control character"),
        pytest.param(f"key: {KEY}\N{LATIN SMALL LETTER E WITH ACUTE}, ttl: 60", "key", id="not ASCII"),
        pytest.param(f"key: ' {KEY}', ttl: 60", "key", id="a space that HTTP strips"),
        pytest.param(f"key: {(KEY * 20)[:257]}, ttl: 60", "key", id="longer than a knock may present"),
        pytest.param("key_sha256: abcd, ttl: 60", "key_sha256", id="a digest too short"),
        pytest.param(f"key_sha256: {'xy' * 32}, ttl: 60", "key_sha256", id="a digest that is not hexadecimal"),
        pytest.param(f"key_sha256: {'ab' * 33}, ttl: 60", "key_sha256", id="a digest too long"),
        pytest.param(f"key: {KEY}, ttl: 0", "ttl", id="no time"),
        pytest.param(f"key: {KEY}, ttl: -5", "ttl", id="negative time"),
        pytest.param(f"key: {KEY}, ttl: true", "ttl", id="true is no time"),
        pytest.param(f"key: {KEY}, ttl: 1.5", "ttl", id="a fraction"),
        pytest.param(f"key: {KEY}, ttl: null", "ttl", id="nothing for a time"),
        pytest.param(f"key: {KEY}, ttl: 1h", "ttl", id="a unit"),
        pytest.param(f"key: {KEY}, ttl: 400000000", "ttl", id="over ten years"),
        pytest.param(f"key: {KEY}, max_ttl: 400000000", "max_ttl", id="at most over ten years"),
        pytest.param(f"key: {KEY}, ttl: 61, max_ttl: 60", "ttl", id="more than the most"),
        pytest.param(
            f"key: {KEY}, ttl: 60, allow_remote_whitelist: 1", "allow_remote_whitelist", id="a number for a right"
        ),
        pytest.param(f"key: {KEY}, ttl: 60, hosts: []", "hosts", id="no hosts at all"),
        pytest.param(f"key: {KEY}, ttl: 60, hosts: a.example", "hosts", id="a text for a list"),
        pytest.param(f"key: {KEY}, ttl: 60, hosts: ['*']", "hosts[0]", id="a bare star"),
        pytest.param(f"key: {KEY}, ttl: 60, hosts: ['a.example:443']", "hosts[0]", id="a host with a port"),
        pytest.param(f"key: {KEY}, ttl: 60, hosts: ['https://a.example']", "hosts[0]", id="a URL"),
        pytest.param(f"key: {KEY}, ttl: 60, hosts: [5]", "hosts[0]", id="a number for a host"),
        pytest.param(f"key: {KEY}, ttl: 60, name: ''", "name", id="an empty name"),
        pytest.param(f"key: {KEY}, ttl: 60, name: 5", "name", id="a number for a name"),
        pytest.param(f'key: {KEY}, ttl: 60, name: "a\\nb"', "name", id="a line break in a name"),
        pytest.param(f"key: {KEY}, ttl: 60, ipv6_prefix: 32", "ipv6_prefix", id="a prefix too short"),
        pytest.param(f"key: {KEY}, ttl: 60, udp_secret: {'ab' * 32}", "udp_secret", id="a secret that is computed"),
        pytest.param(f"key_sha256: {'ab' * 32}, ttl: 60, udp_secret: abcd", "udp_secret", id="a secret too short"),
        pytest.param(f"key: {KEY}, ttl: 60, udp: true", "udp", id="not built: udp"),
        pytest.param(f"key: {KEY}, ttl: 60, max_addresses: 0", "max_addresses", id="no address at all"),
        pytest.param(f"key: {KEY}, ttl: 60, max_addresses: true", "max_addresses", id="a flag for a number"),
        pytest.param(f"key: {KEY}, ttl: 60, expires: '2027-02-30'", "expires", id="a day that does not exist"),
        pytest.param(f"key: {KEY}, ttl: 60, expires: '2027-01-31T10:00:00'", "expires", id="a time without its zone"),
        pytest.param(f"key: {KEY}, ttl: 60, expires: 2027-01-31 10:00:00", "expires", id="the same, unquoted"),
        pytest.param(f"key: {KEY}, ttl: 60, expires: 1800000000", "expires", id="a number for a date"),
        pytest.param(f"key: {KEY}, ttl: 60, expires: tomorrow", "expires", id="a word for a date"),
        pytest.param(f"key: {KEY}, ttl: 60, key_file: /x", "key", id="two ways to name the key"),
        pytest.param("key_file: [a], ttl: 60", "key_file", id="a number for a file"),
    ],
)
def test_a_wrong_member_of_a_key_is_a_fault_at_its_place(members: str, member: str) -> None:
    faults = faults_of(f"api_keys: [{{{members}}}]")
    assert {fault.partition(": ")[0] for fault in faults} == {f"api_keys[0].{member}"}


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        pytest.param([f"name: a, key: {KEY}", f"name: a, key: {KEY_2}"], "api_keys[1].name", id="a repeated name"),
        pytest.param([f"name: key-2, key: {KEY}", f"key: {KEY_2}"], "api_keys[1].name", id="a name that is a default"),
        pytest.param([f"key: {KEY}", f"key: {KEY}"], "api_keys[1].key", id="a repeated key"),
        pytest.param(
            [f"key: {KEY}", f"key_sha256: {hashlib.sha256(KEY.encode()).hexdigest()}"],
            "api_keys[1].key",
            id="one secret in two spellings",
        ),
    ],
)
def test_two_keys_need_two_names_and_two_secrets(keys: list[str], path: str) -> None:
    faults = faults_of("api_keys: [" + ", ".join(f"{{{key}, ttl: 60}}" for key in keys) + "]")
    assert [fault.partition(": ")[0] for fault in faults] == [path]
    assert "api_keys[0]" in faults[0]


def test_a_key_of_sixteen_and_one_of_256_characters_are_taken() -> None:
    for key in ("Xy7kQ2mZ9pLw4RtB", (KEY * 20)[:256]):
        assert len(read(f"api_keys: [{{key: '{key}', ttl: 60}}]").keys) == 1


def test_ten_years_are_taken() -> None:
    assert read(f"api_keys: [{{key: {KEY}, ttl: 315360000}}]").keys[0].ttl == 315_360_000


@pytest.mark.parametrize(
    ("section", "words"),
    [
        pytest.param("documentation: {openapi_output_path: docs/openapi.json}", "documentation: ", id="documentation"),
        pytest.param("firewalld: {enabled: false, zone_name: knocker}", "firewalld: ", id="a firewall switched off"),
        pytest.param(
            "server: {allow_loopback_clients: true}", "server.allow_loopback_clients: ", id="loopback clients"
        ),
        pytest.param("server: {trusted_proxies: [10.0.0.7/24]}", "10.0.0.0/24", id="host bits set"),
        pytest.param("server: {listen: 'unix:/run/k.sock'}", "server.trusted_proxies: ", id="a socket nobody may use"),
    ],
)
def test_what_the_admin_should_know_is_a_warning(section: str, words: str) -> None:
    warnings = read(GOOD + section).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith("knocker.yaml: ")
    assert words in warnings[0]


@pytest.mark.parametrize(
    ("text", "server"),
    [
        pytest.param("unix:/run/k.sock", Server(unix=UnixSocket("/run/k.sock", 0o660)), id="a socket for its group"),
        pytest.param("unix:/run/k.sock:mode=0600", Server(unix=UnixSocket("/run/k.sock", 0o600)), id="for its owner"),
        pytest.param("unix:/run/k\\:1.sock", Server(unix=UnixSocket("/run/k:1.sock", 0o660)), id="a quoted colon"),
        pytest.param("tcp:8001", Server("0.0.0.0", 8001), id="a port"),
        pytest.param("tcp:8001:interface=127.0.0.1", Server("127.0.0.1", 8001), id="a port of one address"),
        pytest.param("tcp6:8001", Server("::", 8001), id="a port of both families"),
        pytest.param("tcp6:8001:interface=\\:\\:1", Server("::1", 8001), id="a port of one IPv6 address"),
        pytest.param("systemd:domain=INET:index=0", Server(endpoint="systemd:domain=INET:index=0"), id="another's"),
    ],
)
def test_listen_names_an_endpoint(text: str, server: Server) -> None:
    assert read(GOOD + f"server: {{listen: '{text}'}}").server == server


def test_the_peers_of_a_unix_socket_may_be_believed() -> None:
    settings = read(GOOD + "server: {listen: 'unix:/run/k.sock', trusted_proxies: [unix, 10.0.0.1]}")
    assert settings.server.trusts_unix
    assert [str(network) for network in settings.server.trusted_proxies.members] == ["10.0.0.1"]
    assert settings.warnings == ()
    assert not read(GOOD).server.trusts_unix


def test_a_network_that_is_spelt_out_needs_no_warning() -> None:
    assert (
        read(GOOD + "server: {trusted_proxies: ['10.0.0.0/24', '::ffff:10.1.0.0/112', 'fd00::/64', '::1']}").warnings
        == ()
    )


V1 = """
server:
  host: "0.0.0.0"
  port: 8000
  trusted_proxies: ["172.29.238.0/24", "fd00:dead:c0de::/64"]
cors: {allowed_origin: "*"}
documentation: {openapi_output_path: "docs/openapi.json"}
security:
  always_allowed_ips: ["172.29.238.0/24", "fd00:dead:c0de::/64"]
  excluded_paths: ["/knock"]
  max_whitelist_entries: 5000
whitelist: {storage_path: "/data/whitelist.json"}
firewalld:
  enabled: false
  zone_name: "knocker"
  zone_priority: -100
  monitored_ports: [{port: 80, protocol: tcp}]
  monitored_ips: ["203.0.113.0/24"]
api_keys:
  - {name: "admin", key: "b7c9e0f2a4d6a8b1c3e5", max_ttl: 3600, allow_remote_whitelist: true}
  - {name: "personal-phone", key: "0f1e2d3c4b5a69788796", max_ttl: 14400, allow_remote_whitelist: false}
"""


def test_a_configuration_of_the_older_knocker_is_read_with_warnings_only() -> None:
    settings = read(V1)
    assert [warning.split(": ")[1] for warning in settings.warnings] == ["documentation", "firewalld"]
    assert [(key.name, key.ttl, key.max_ttl, key.admin) for key in settings.keys] == [
        ("admin", 3600, 3600, True),
        ("personal-phone", 14400, 14400, False),
    ]
    assert settings.storage.max_entries == 5000
    assert settings.security.exclusions.cover("/knock", None)


def test_the_older_knockers_example_keys_are_refused() -> None:
    faults = faults_of(V1.replace("b7c9e0f2a4d6a8b1c3e5", "CHANGE_ME_SUPER_SECRET_ADMIN_KEY"))
    assert [fault.partition(": ")[0] for fault in faults] == ["api_keys[0].key"]


def test_both_names_of_the_whitelists_limit_may_agree() -> None:
    assert read(GOOD + "whitelist: {max_entries: 5}\nsecurity: {max_whitelist_entries: 5}").storage.max_entries == 5


def test_networks_are_kept_as_they_are_meant() -> None:
    settings = read(GOOD + "server: {trusted_proxies: ['::ffff:10.0.0.0/104']}")
    assert settings.server.trusted_proxies.members == (Network.parse("10.0.0.0/8"),)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("2027-01-31", 1801353600.0, id="a date is its midnight in UTC"),
        pytest.param('"2027-01-31"', 1801353600.0, id="a date in quotes"),
        pytest.param("2027-01-31T01:00:00+01:00", 1801353600.0, id="a date-time with its zone"),
        pytest.param('"2027-01-31T00:00:00Z"', 1801353600.0, id="a date-time in quotes"),
        pytest.param("null", None, id="never"),
    ],
)
def test_a_key_expires_at_a_moment(text: str, seconds: float | None) -> None:
    key = read(f"api_keys: [{{key: {KEY}, ttl: 60, max_addresses: 3, expires: {text}}}]").keys[0]
    assert (key.expires, key.max_addresses) == (seconds, 3)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        pytest.param("", Limit(60, 20, 30), id="the defaults"),
        pytest.param("{window_seconds: 5}", Limit(5, 20, 30), id="another window"),
        pytest.param("{successful_requests: 0, failed_requests: 0}", Limit(60, 0, 0), id="no limits"),
    ],
)
def test_the_rate_limits_have_defaults(text: str, limit: Limit) -> None:
    assert read(GOOD + (f"security: {{knock_rate_limit: {text}}}" if text else "")).security.limit == limit


@pytest.mark.parametrize("text", ["{window_seconds: 0}", "{failed_requests: -1}", "{successful_requests: yes}", "5"])
def test_a_rate_limit_that_is_none_is_a_fault(text: str) -> None:
    assert all("knock_rate_limit" in fault for fault in faults_of(GOOD + f"security: {{knock_rate_limit: {text}}}"))


@pytest.mark.parametrize(
    ("text", "logging"),
    [
        ("{level: DEBUG}", Logging("debug", "text")),
        ("{level: INFO, format: json}", Logging("info", "json")),
        ("{level: warning}", Logging("warn", "text")),
        ("{level: critical}", Logging("error", "text")),
        ("", Logging("info", "text")),
    ],
)
def test_the_log_has_a_level_and_a_format(text: str, logging: Logging) -> None:
    assert read(GOOD + f"logging: {text}").logging == logging


@pytest.mark.parametrize("text", ["{level: loud}", "{level: 10}", "{format: xml}", "{file: x}"])
def test_a_log_that_nobody_writes_is_a_fault(text: str) -> None:
    assert len(faults_of(GOOD + f"logging: {text}")) == 1
