"""docs/configuration.md and the settings say the same: which there are, their defaults, what needs a restart."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml

from knocker.settings import Faulty, Settings, parse
from knocker.settings.keys import NAMES
from knocker.settings.reading import SECTIONS
from knocker.terms import fixed_changes
from tests.service import PROJECT

PAGE = (PROJECT / "docs/configuration.md").read_text(encoding="utf-8")
KEY = {"name": "key-1", "key": "a key that nobody guesses 1", "ttl": 60}
ROWS = re.findall(r"^\| (`[^|]*)\|([^|]*)\|", PAGE, re.MULTILINE)
OLDER = {"security.max_whitelist_entries"}  # named in the text


def _words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


TABLE = {tuple(_words(names)): _words(default) for names, default in ROWS if "." in names}
MEMBERS = {name: default for names, default in ROWS if "." not in names for name in _words(names)}


def _read(settings: dict[str, object]) -> Settings:
    return replace(parse(yaml.safe_dump({"api_keys": [KEY], **settings}).encode()), warnings=())


def _said(name: str, default: object) -> dict[str, object]:
    for part in reversed(name.split(".")):
        default = {part: default}
    assert isinstance(default, dict)
    return default


def test_every_setting_has_its_row_and_every_row_is_a_setting() -> None:
    there = {f"{section}.{name}" for section, table in SECTIONS.items() for name in table}
    told = {name for names in TABLE for name in names}
    nested = {name for name in told if name.count(".") > 1}
    assert {name.rpartition(".")[0] for name in nested} == {"security.deny"}
    assert (told - nested) | {"security.deny"} == there - OLDER
    assert set(MEMBERS) - {"api_keys"} == set(NAMES)
    assert [name for name in OLDER if f"`{name}`" not in PAGE] == []


@pytest.mark.parametrize(
    ("name", "default"),
    [
        pytest.param(name, default, id=name)
        for names, defaults in TABLE.items()
        for name, default in zip(names, defaults if len(defaults) == len(names) else defaults * len(names), strict=True)
    ],
)
def test_the_default_that_is_told_is_the_one_that_counts(name: str, default: str) -> None:
    assert _shown(_read(_said(name, yaml.safe_load(default)))) == _shown(_read({}))


def _shown(settings: Settings) -> str:
    """Every value, also of those that are equal only to themselves."""
    exclusions = settings.security.exclusions
    plain = re.sub(r" at 0x[0-9a-f]+", "", repr(settings))
    return plain + repr((exclusions.everywhere, exclusions.by_host, _listed(settings)))


def _listed(settings: Settings) -> list[list[str]]:
    sets = (
        settings.server.trusted_proxies,
        settings.server.shared_addresses,
        settings.security.always_allowed_ips,
    )
    return [[str(network) for network in networks.members] for networks in sets]


@pytest.mark.parametrize(
    ("member", "default"),
    [
        pytest.param(member, words[0], id=member)
        for member, cell in MEMBERS.items()
        if member not in ("api_keys", "name", "max_ttl") and (words := _words(cell))
    ],
)
def test_the_default_of_a_keys_member_is_the_one_that_counts(member: str, default: str) -> None:
    said = parse(yaml.safe_dump({"api_keys": [{**KEY, member: yaml.safe_load(default)}]}).encode())
    assert said.keys == _read({}).keys


def test_what_needs_a_restart_is_told() -> None:
    (told,) = re.findall(r"^(`server\.host`.*?)need a restart", PAGE, re.MULTILINE | re.DOTALL)
    section, names = "", set()
    for word in _words(told):
        section = word.rpartition(".")[0] or section
        names.add(f"{section}.{word.rpartition('.')[2]}")
    old, new = (
        _read({}),
        _read(
            {
                "server": {"host": "::1", "port": 1, "fast_lane": False, "max_connections": 1},
                "whitelist": {"storage_path": "other.json", "cleanup_interval_seconds": 1, "store": "redis://other"},
                "udp": {"enabled": True, "host": "::1", "port": 1, "state_path": "other.log"},
                "metrics": {"enabled": True, "host": "::1", "port": 1},
            }
        ),
    )
    listens = _read({"server": {"listen": "unix:/run/knocker.sock"}})
    fixed = {*fixed_changes(old, new), *fixed_changes(old, listens)} - {"metrics"}
    assert fixed | {"metrics.enabled", "metrics.host", "metrics.port"} == names


def test_the_faults_that_are_shown_are_the_very_ones() -> None:
    shown = re.findall(r"^knocker: error: (.*)$", PAGE, re.MULTILINE)
    with pytest.raises(Faulty) as found:
        parse(b"server: {trusted_proxys: []}\napi_keys: [{key: a key that nobody guesses 1, ttl: abc}]\n")
    assert shown == found.value.faults
