"""knocker.yaml as anything at all: Settings, or faults that say where, on one line each, without a secret."""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from knocker.settings import Faulty, Settings, load

EXAMPLE = Path(__file__).parents[2] / "knocker.example.yaml"
KEY_ONE, KEY_TWO = "qW8-zR3_vT6.nB1-mK9", "Xp4!hD7?sL2:cF5=gJ0"
HASHED = "9c1185a5c5e9fc54612808977ee8f548b2258d31ab8ccb2c6a5c0f6c5a5f7e11"
UDP = "4f5e6d7c8b9a0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796"
SECRETS = [KEY_ONE, KEY_TWO, HASHED, UDP]
HASHED_KEY = f"""
  - {{name: hashed, key_sha256: "{HASHED}", udp_secret: "{UDP}", ttl: 5, hosts: [a.example.com]}}"""
BASE = (
    EXAMPLE.read_text()
    .replace("REPLACE_WITH_A_KEY_OF_YOUR_OWN", KEY_ONE)
    .replace("REPLACE_WITH_ANOTHER_KEY", KEY_TWO)
    .replace("\nsecurity:", f"{HASHED_KEY}\n\nsecurity:")
)
PLENTY = 5.0  # seconds of the processor, which others cannot take, for any file of a sane size


def loaded(data: bytes) -> Settings | list[str]:
    """What the product makes of a file of these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "knocker.yaml")
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, 0o600)
        began = time.process_time()
        found: Settings | list[str]
        try:
            taken = load(path)
            found, lines = taken, list(taken.warnings)
        except Faulty as faulty:
            lines = faulty.faults
            found = [line.removeprefix(path + ": ") for line in lines]
        assert time.process_time() - began < PLENTY
        assert found != []
        assert all(line.startswith(path + ": ") for line in lines)
        return found


def fragments(secret: str) -> set[str]:
    """Parts of a secret that are long enough to give it away."""
    return {secret[start : start + 12] for start in range(len(secret) - 11)}


GIVEAWAYS = set().union(*map(fragments, SECRETS))


def is_presentable(text: str) -> bool:
    """Whether a fault or warning may stand in a terminal and a log."""
    return text.isprintable() and text != "" and not any(part in text for part in GIVEAWAYS)


def judge(data: bytes) -> None:
    """The property of every file."""
    found = loaded(data)
    if isinstance(found, Settings):
        event("settings")
        assert found.keys
        assert all(map(is_presentable, found.warnings))
        assert is_presentable(repr(found))
    else:
        event("faults")
        assert all(map(is_presentable, found)), found


def test_the_file_that_all_others_are_made_of_is_right() -> None:
    found = loaded(BASE.encode())
    assert isinstance(found, Settings)
    assert len(found.keys) == 3


# Damage to the text.

SNIPPETS = [
    "\t", " ", "\n", "\r", "\x00", "\x07", "\x1b[2J", "\x7f", "\x85", "\u2028", "\ufeff", "\U0001f6aa", "&a ", "*a",
    "!x ", "!!binary ",
    "!!python/object/apply:os.system ", "<<: ", "? ", "- ", ": ", "{", "}", "[", "]", '"', "'", "|", ">", "#",
    "%YAML 9.9\n", "---\n",
    "...\n", "@", "`", "~", "null", "true", ".inf", ".nan", "-0", "1:30", "1_000", "0o17", "0x1f", "2027-01-31",
    "9999-99-99",
    "0001-01-01T00:00:00+23:59", "1e999", "1" * 400, "1" * 5000, "1" + ":59" * 200 + ".0", "1:" * 10, '"\\ud800"',
    '"\\0\\e[31m"', '"\\u2028"',
    '"\\N\\L\\P"', "=", "api_keys:\n", "server:\n", "  key: 5\n", "- key: x\n", "ttl: 1\n", "[" * 40, "[" * 3000,
    "{a: " * 400, "- " * 400,
    "? " * 400, "a: " * 40,
]  # fmt: skip


@st.composite
def damaged_texts(draw: st.DrawFn) -> bytes:
    """The file with some letters, lines and words changed."""
    data = BASE
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        lines = data.splitlines(keepends=True) or [""]
        number = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.integers(0, 7))
        if kind == 0:
            data = data[:place] + draw(st.sampled_from(SNIPPETS)) + data[place:]
        elif kind == 1:
            data = data[:place] + data[place + draw(st.integers(1, 5)) :]
        elif kind == 2:
            data = "".join([*lines[:number], lines[number], *lines[number:]])
        elif kind == 3:
            data = "".join(lines[:number] + lines[number + 1 :])
        elif kind == 4:
            lines[number] = re.sub(
                r"(: *)[^#\n]+", lambda match: match[1] + draw(st.sampled_from(SNIPPETS)), lines[number], count=1
            )
            data = "".join(lines)
        elif kind == 5:
            lines[number] = draw(st.sampled_from(["  ", "", " ", "    ", "- ", "\t"])) + lines[number].lstrip()
            data = "".join(lines)
        elif kind == 6:
            data = data.replace(
                draw(st.sampled_from(['"', ":", "  ", "\n", "[", ",", "- "])),
                draw(st.sampled_from(["", "'", " ", "\n"])),
                3,
            )
        else:
            data = data[:place]
    raw = data.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 5)) == 0 and raw:
        place = draw(st.integers(0, len(raw) - 1))
        raw = raw[:place] + bytes([raw[place] ^ 1 << draw(st.integers(0, 7))]) + raw[place + 1 :]
    if draw(st.integers(0, 9)) == 0:
        raw = raw.decode("utf-8", "replace").encode(
            draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32", "latin-1"])), "replace"
        )
    return raw


OVERLONG = "1" + ":59" * 200 + ".0"


@settings(max_examples=min(settings().max_examples, 500))
@given(data=damaged_texts())
@example(data=f"api_keys: [{{key: {KEY_ONE!r}, ttl: {OVERLONG}}}]".encode())
@example(data=f"api_keys: [{{key: {KEY_ONE}: {KEY_TWO}, ttl: 5}}]".encode())
@example(data=f"api_keys: [{{key: '{KEY_ONE}, ttl: 5}}]".encode())
@example(data=f"api_keys: [{{{KEY_ONE}: key, ttl: 5}}]".encode())
@example(data=f'api_keys:\n- "{KEY_ONE}"\n- "{KEY_ONE}": 1\n  "{KEY_ONE}": 2\n'.encode())
@example(data=b"? [a]\n: b\n")
@example(data=b"a: &a [*a]\n")
@example(data=b"")
@example(data=b"\xff")
@example(data=b"[" * 100000)
@example(data=b"a: " + b"b" * (1 << 20))
def test_a_damaged_file_is_settings_or_faults(data: bytes) -> None:
    judge(data)


@given(
    data=st.one_of(
        st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    )
)
def test_any_bytes_at_all_are_settings_or_faults(data: bytes) -> None:
    judge(data)


# Damage to the values: a right tree with wrong leaves.

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.integers(-2, 100),
    st.sampled_from([2**31, 2**63, 2**64, 10**15, 10**400, 86400 * 3660, 401, 403, 65535, 65536]),
    st.floats(),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.timezones()),
    st.text(max_size=12),
    st.sampled_from(
        [
            "", " ", "*", "/", "/*", "//", "/a", "/a/..", "/%41", "/" + "a" * 300, "0.0.0.0/0", "::/0",
            "::ffff:0:0/96", "::ffff:0.0.0.0/96",
            "10.0.0.1/8", "10.0.0.0/33", "1.2.3.4/" + "1" * 5000, "::1%lo", "a.example.com", "*.example.com", "*.",
            "*", "a.example.com.",
            "A.EXAMPLE.COM", "\u212a.example.com", "a" * 64, "a." * 200 + "a", "https://a.example.com",
            "https://a.example.com/x", "https://u:p@a",
            "https://a\n", "http://[::1]:8000", "none", "knock", "/x.html", "true", "5", "5.0", "2027-01-31",
            "2027-01-31T00:00:00Z",
            "2027-01-31T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2027-W05-7", "20270131",
            "unix", "unix:/x",
            "haproxy:tcp:80", "/run/secrets/x", "../knocker.yaml", "/etc/passwd", "/dev/zero", "/dev/stdin",
            "/proc/self/mem", ".", "\x00",
            "a\x00b", "\ud800", "\x1b[2J", "\u2028", "x" * 300, "x" * 5000, "CHANGE_ME", "debug", "WARNING", "json",
        ]
    ),
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(
        [
            "server", "trusted_proxies", "trusted_proxys", "whitelist", "api_keys", "api_key", "key", "key_sha256",
            "key_file", "ttl", "max_ttl",
            "name", "hosts", "expires", "udp", "udp_secret", "ipv6_prefix", "max_addresses", "excluded_paths",
            "excluded_paths_by_host",
            "deny_by_host", "deny", "status", "page", "listen", "store", "knock_page", "url", "also", "return_to",
            "cors", "allowed_origin", "metrics",
            "enabled", "documentation", "firewalld", "max_whitelist_entries", "max_entries", "logging", "level",
            "format", "a.example.com",
            "A.example.com", "knock_rate_limit", "window_seconds", "allow_loopback_clients", "Key", "x" * 40, "x-y",
            "\u00e9", "\x1b", "",
        ]
    ),
    SCALARS,
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a tree."""
    found = [path]
    for name, member in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        found += places_in(member, (*path, name))
    return found


FULL: dict[str, Any] = {
    **yaml.safe_load(BASE),
    "knock_page": {
        "enabled": False,
        "url": "https://knock.example.com",
        "also": ["https://v4.example.com"],
        "return_to": [],
    },
    "cors": {"allowed_origin": "https://a.example.com"},
    "udp": {"enabled": False, "host": "::", "port": 62201},
    "metrics": {"enabled": False, "port": 9090},
    "documentation": {"enabled": True},
    "firewalld": {"enabled": False},
}
FULL["server"] |= {"listen": None, "max_connections": 10, "fast_lane": True, "allow_loopback_clients": True}
FULL["whitelist"] |= {"store": None, "cleanup_interval_seconds": 5, "max_entries": 7}
FULL["security"] |= {
    "excluded_paths_by_host": {"a.example.com": ["/health"]},
    "deny": {"status": 403, "page": "none"},
    "deny_by_host": {"a.example.com": {"status": 401}},
    "max_whitelist_entries": 7,
    "always_allowed_ips": ["192.168.1.0/24"],
    "excluded_paths": ["/metrics"],
}
FULL["api_keys"][1] |= {"expires": "2027-01-31", "max_addresses": 3, "ipv6_prefix": 64, "udp": False}
PLACES = places_in(FULL)
# What stands there is a secret, and not where it is looked for: nobody could know it for one there.
SECRET_PLACES = [place for place in PLACES if place and place[-1] in ("key", "key_sha256", "udp_secret")]


class Plain(yaml.SafeDumper):
    """Writes what stands there twice twice: aliases would be the only fault found."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@st.composite
def damaged_trees(draw: st.DrawFn) -> bytes:
    """The whole of the settings, some values of another type, some names misspelt, some members moved or gone."""
    tree = yaml.safe_load(yaml.safe_dump(FULL))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.sampled_from(PLACES[1:]))
        parent: Any = tree
        try:
            for step in place[:-1]:
                parent = parent[step]
            old = parent[place[-1]]
        except (KeyError, IndexError, TypeError):
            continue
        kind = draw(st.integers(0, 5))
        if kind == 0 and isinstance(parent, dict):
            del parent[place[-1]]
            parent[draw(NAMES)] = old
        elif kind == 1:
            parent[place[-1]] = [old] if draw(st.booleans()) else {"a": old}
        elif kind == 2 and isinstance(parent, dict):
            parent[draw(NAMES)] = draw(TREES)
        elif kind == 3 and isinstance(old, list):
            old.append(draw(TREES))
        elif kind == 4 and isinstance(parent, dict):
            del parent[place[-1]]
        else:
            parent[place[-1]] = draw(TREES)
    if draw(st.booleans()) and isinstance(tree.get("api_keys"), list) and tree["api_keys"]:
        tree["api_keys"].append(draw(st.sampled_from(tree["api_keys"])))
    return yaml.dump(tree, Dumper=Plain, allow_unicode=draw(st.booleans())).encode("utf-8", "surrogatepass")


def test_the_tree_that_all_others_are_made_of_is_right() -> None:
    assert isinstance(loaded(yaml.safe_dump(FULL).encode()), Settings)


@settings(max_examples=min(settings().max_examples, 500))
@given(data=damaged_trees())
def test_a_file_of_wrong_values_is_settings_or_faults(data: bytes) -> None:
    judge(data)


@given(tree=TREES)
def test_a_file_about_something_else_is_faults(tree: Any) -> None:
    data = yaml.safe_dump(tree).encode("utf-8", "surrogatepass")
    judge(data)


# Where a secret may slip to.

SLIPS = [
    "api_keys: [{key: SECRET, ttl: x}]", "api_keys: [{key: [SECRET], ttl: 5}]",
    "api_keys: [{key: {SECRET: 1}, ttl: 5}]",
    "api_keys: [{SECRET: 5, ttl: 5}]", "api_keys: [{name: SECRET, key: SECRET, ttl: 5, ttl: 6}]",
    "api_keys: [{ttl: SECRET}]",
    "api_keys: [{max_ttl: SECRET}]", "api_keys: [{expires: SECRET}]", "api_keys: [{hosts: [SECRET]}]",
    "api_keys: [{hosts: SECRET}]",
    "api_keys: [{ipv6_prefix: SECRET}]", "api_keys: [{max_addresses: SECRET}]", "api_keys: [{udp: SECRET}]",
    "api_keys: [{udp_secret: SECRET}]",
    "api_keys: [{key_file: SECRET, ttl: 5}]", "api_keys: [{key_file: /SECRET, ttl: 5}]",
    "api_keys: [{key_sha256: SECRET, ttl: 5}]",
    "api_keys: [{allow_remote_whitelist: SECRET}]", "api_keys: [SECRET]", "api_keys: SECRET", "api_keys: {SECRET: x}",
    "api_keys: {phone: SECRET}",
    "api_keys: [{key: SECRET, key: SECRET}]", "api_keys: [{SECRET: 1, SECRET: 2}]", "api_keys: [{key: *SECRET}]",
    "api_keys: [{key: &SECRET x}]",
    "api_keys: [{key: !SECRET x}]", "api_keys: [{key: 'SECRET}]", "api_keys: [{key: \"SECRET\\q\"}]",
    "api_keys: [{key: @SECRET}]",
    "api_keys: [{key: `SECRET}]", "api_keys: [{key: %SECRET}]", "api_keys: [{key: |SECRET}]",
    "api_keys: [{key: SECRET: x}]",
    "api_keys:\n- key: SECRET\n ttl: 5", "api_keys:\n- key:\n  SECRET\n  ttl: 5",
    "api_keys:\n- key: \"SECRET\n  ttl: 5", "%SECRET\n---\na: b",
    "api_keys:\n- SECRET:\n    ttl: 5\n", "api_keys: [{key: \"SECRET\x07\", ttl: 5}]",
    "api_keys: [{key: \"\\ud800SECRET\", ttl: 5}]",
    "api_keys: [{key: SECRET, ttl: 5}]\nSECRET: 5", "api_keys: [{key: SECRET, ttl: 5}, {key: SECRET, ttl: 5}]",
    "? SECRET\n", "? [SECRET]\n: x",
    "api_keys: [{key: !SECRET!x, ttl: 5}]", "api_keys: [{key: !<SECRET, ttl: 5}]",
    "%TAG !SECRET! x\n%TAG !SECRET! y\n---\na: b",
    "<<: SECRET", "api_keys: [{<<: {key: SECRET}, ttl: 5}]",
]  # fmt: skip
SECRET_TEXTS = st.one_of(
    st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", min_size=24, max_size=80),
    st.text("0123456789", min_size=24, max_size=40),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.text("abcdef_-0123", min_size=24, max_size=31),
    st.text("ABab01.:/_-+=!?$%&*@#<>()~^", min_size=24, max_size=48),
)


def hides(form: str, secret: str) -> None:
    found = loaded(form.replace("SECRET", secret).encode())
    texts = [*found.warnings, repr(found)] if isinstance(found, Settings) else found
    shown = "\n".join(texts)
    # A name is no secret, and is shown.
    if not isinstance(found, Settings) or "name" not in form:
        assert not any(part in shown for part in fragments(secret)), shown
    assert all(text.isprintable() for text in texts)


def test_no_place_for_a_secret_is_one_where_it_is_shown() -> None:
    for form in SLIPS:
        hides(form, "Zq8Lw3Rt6Yx1Nv9Bc4Mk7Hd2PsJf")
        hides(form, "81620947351862094735186209473518")


@given(form=st.sampled_from(SLIPS), secret=SECRET_TEXTS)
@example(form="api_keys: [{key: SECRET, ttl: 5}]\nSECRET: 5", secret="Zq8Lw3Rt6Yx1Nv9Bc4Mk7Hd2Ps")
def test_a_secret_in_the_wrong_place_is_not_shown(form: str, secret: str) -> None:
    hides(form, secret)


# Bounded time.

MANY = [
    ("keys", lambda count: "api_keys: [" + ", ".join(["{}"] * count) + "]"),
    (
        "keys with secrets",
        lambda count: "api_keys:\n" + "".join(f"- {{key: secret-number-{i:09}, ttl: 5}}\n" for i in range(count)),
    ),
    ("names", lambda count: "".join(f"trusted_proxy{i}: 1\n" for i in range(count))),
    ("addresses", lambda count: "server: {trusted_proxies: [" + ", ".join(["10.0.0.1"] * count) + "]}"),
    ("one long text", lambda count: "server: {host: " + "a" * count * 20 + "}"),
    ("a long number", lambda count: "server: {port: " + "1" * count * 20 + "}"),
    ("a long date", lambda count: "api_keys: [{expires: " + "2027-01-31 " * count + "}]"),
    ("flow lists", lambda count: "[" * count),
    ("block lists", lambda count: "- " * count),
    ("block keys", lambda count: "? " * count),
    ("colons", lambda count: "1" + ":1" * count * 5),
    ("quotes", lambda count: '"' * count),
    ("blanks", lambda count: "a:" + " " * count * 20 + "b"),
    ("lines", lambda count: "\n" * count * 20),
    ("comments", lambda count: "# x\n" * count * 5),
]


@settings(max_examples=min(settings().max_examples, 30))
@given(form=st.sampled_from([form for _, form in MANY]), count=st.sampled_from([10, 1000, 2000]))
def test_a_long_file_is_read_in_bounded_time(form: Any, count: int) -> None:
    judge(form(count).encode())
