"""No secret, and nothing below api_keys that could be one, gets into a fault, a warning or a repr."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from knocker.settings import Faulty, parse

KEY, UDP_SECRET, KEY_SHA256 = "Xy7kQ2mZ9pLw4RtB8s", "5e" * 32, "c7" * 32
DOCUMENT: dict[str, Any] = {
    "server": {
        "host": "::",
        "port": 8000,
        "listen": None,
        "trusted_proxies": ["10.0.0.0/24"],
        "allow_loopback_clients": False,
        "shared_addresses": ["172.20.0.1"],
        "max_connections": 10,
        "fast_lane": True,
    },
    "whitelist": {
        "storage_path": "whitelist.json",
        "cleanup_interval_seconds": 60,
        "max_entries": 10,
        "ipv6_prefix": 64,
    },
    "api_keys": [
        {
            "name": "phone",
            "key": KEY,
            "ttl": 3600,
            "max_ttl": 86400,
            "allow_remote_whitelist": False,
            "hosts": ["app.example.com", "*.example.org"],
            "max_addresses": None,
            "expires": None,
            "ipv6_prefix": 128,
            "udp": False,
        },
        {"name": "other", "key_sha256": KEY_SHA256, "udp_secret": UDP_SECRET, "ttl": 60},
    ],
    "security": {
        "always_allowed_ips": ["192.168.1.0/24"],
        "excluded_paths": ["/metrics"],
        "excluded_paths_by_host": {"app.example.com": ["/health"]},
        "deny": {"status": 401, "page": "none"},
        "deny_by_host": {"app.example.com": {"status": 403}},
    },
    "knock_page": {"enabled": False, "url": "https://knock.example.com", "also": [], "return_to": []},
    "cors": {"allowed_origin": "*"},
    "udp": {"enabled": False, "port": 62201},
    "logging": {"level": "info", "format": "text"},
    "metrics": {"enabled": False},
}

Step = str | int
Path = tuple[Step, ...]


def places(value: Any, path: Path = ()) -> list[Path]:
    """Every place of a document, sections and lists included."""
    if isinstance(value, dict):
        members: list[tuple[Step, Any]] = list(value.items())
    else:
        members = list(enumerate(value)) if isinstance(value, list) else []
    return [path, *(place for step, member in members for place in places(member, (*path, step)))]


PLACES = [place for place in places(DOCUMENT) if place]
# Like keys: long enough to be taken for one, and printable.
KEY_LIKE = st.one_of(
    st.text("abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", min_size=16, max_size=64),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=64),
)


def put(place: Path, text: str, how: str) -> bytes:
    """The document with `text` as the value at `place`, or where there is one as its name, a member or an item."""
    document = copy.deepcopy(DOCUMENT)
    parent: Any = document
    for step in place[:-1]:
        parent = parent[step]
    last = place[-1]
    if how == "name" and isinstance(last, str):
        parent[text] = parent.pop(last)
    elif how == "member" and isinstance(parent[last], dict):
        parent[last][text] = text
    elif how == "member" and isinstance(parent[last], list):
        parent[last].append(text)
    elif how == "nested":
        parent[last] = {text: [text]}
    else:
        parent[last] = text
    return json.dumps(document).encode()  # JSON is YAML enough


def said(data: bytes) -> str:
    """Everything that reading `data` tells anybody."""
    try:
        settings = parse(data)
    except Faulty as faulty:
        return "\n".join([*faulty.faults, str(faulty), repr(faulty)])
    return "\n".join([*settings.warnings, repr(settings), *map(str, settings.keys)])


@given(place=st.sampled_from(PLACES), text=KEY_LIKE, how=st.sampled_from(["value", "name", "member", "nested"]))
@example(place=("api_keys", 0, "ttl"), text="Qm3vT8xK1nZr5WbY7d", how="value")
@example(place=("api_keys",), text="Qm3vT8xK1nZr5WbY7d", how="value")
@example(place=("api_keys", 0), text="Am00000a_connecn", how="member")
@example(place=("api_keys", 0, "key"), text="Qm3vT8xK1nZr5WbY7d", how="name")
@example(place=("api_keys", 0, "name"), text="\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\", how="nested")
def test_a_key_in_a_wrong_place_is_not_shown(place: Path, text: str, how: str) -> None:
    told = said(put(place, text, how))
    for secret in (KEY, UDP_SECRET, KEY_SHA256):
        assert secret not in told
    named = place[0] == "api_keys" and place[2:] == ("name",) and how in ("value", "member")
    below_keys = place[0] == "api_keys" and (len(place) > 1 or how != "name")
    if below_keys and not named:  # the name is what logs show instead of the key
        assert text not in told
        assert repr(text)[1:-1] not in told


@pytest.mark.parametrize(
    "member", ["ttl", "max_ttl", "hosts", "allow_remote_whitelist", "ipv6_prefix", "udp", "expires"]
)
def test_the_shortest_key_in_a_wrong_place_is_not_shown(member: str) -> None:
    text = "Xy7kQ2mZ9pLw4RtB"
    assert len(text) == 16
    assert text not in said(put(("api_keys", 0, member), text, "value"))
    assert text not in said(put(("api_keys", 0, member), text, "nested"))


@pytest.mark.parametrize("member", ["key", "key_sha256", "udp_secret", "key_file"])
@pytest.mark.parametrize("text", ["a", "short", "CHANGE_ME_1", "with a space ", "x" * 300, "tab\t", "\N{SNOWMAN}"])
def test_what_stands_where_a_secret_belongs_is_never_shown(member: str, text: str) -> None:
    long_enough = f"<{text}>"  # so that no fault holds it by accident
    assert long_enough not in said(put(("api_keys", 0, member), long_enough, "value"))


def test_the_repr_of_settings_shows_no_secret_and_no_digest() -> None:
    settings = parse(json.dumps(DOCUMENT).encode())
    told = said(json.dumps(DOCUMENT).encode())
    for key in settings.keys:
        assert key.digest.hex() not in told
        assert repr(key.digest) not in told
    assert "phone" in told
    for secret in (KEY, KEY_SHA256, UDP_SECRET):
        assert secret not in told
