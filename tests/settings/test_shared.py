"""whitelist.store and what stands beside it: read as meant, and nothing of a secret is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from knocker.settings import Faulty, Settings, load, parse
from knocker.settings.model import Shared

KEYS = 'api_keys: [{key: "a key that is long enough 1", ttl: 60}]\n'
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


def read(folder: Path, whitelist: str, **files: str) -> Settings:
    """The settings with these words in whitelist, and these files beside them."""
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    path = folder / "knocker.yaml"
    path.touch(0o600)
    path.write_text(KEYS + f"whitelist: {{{whitelist}}}\n")
    return load(str(path))


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        pytest.param("redis://10.0.0.5", Shared("10.0.0.5"), id="the host alone"),
        pytest.param("redis://10.0.0.5/", Shared("10.0.0.5"), id="with a slash"),
        pytest.param("redis://engine.example:7000/3", Shared("engine.example", 7000, 3), id="port and database"),
        pytest.param("redis://[2001:db8::1]:7000", Shared("2001:db8::1", 7000), id="an IPv6 address"),
        pytest.param("rediss://engine?prefix=a.b-c_1", Shared("engine", prefix="a.b-c_1", tls=True), id="TLS"),
    ],
)
def test_an_address_says_where_the_store_is(address: str, meant: Shared) -> None:
    settings = parse(f"{KEYS}whitelist: {{store: '{address}'}}\n".encode())
    assert settings.storage.shared == meant


def test_without_a_store_there_is_none() -> None:
    assert parse(KEYS.encode()).storage.shared is None
    assert parse(f"{KEYS}whitelist: {{store: null, min_replicas: 0}}".encode()).storage.shared is None


def test_the_password_is_what_its_file_holds(tmp_path: Path) -> None:
    settings = read(tmp_path, "store: 'redis://knocker@x', password_file: p, min_replicas: 2", p="pass word\n")
    shared = settings.storage.shared
    assert shared is not None
    assert (shared.user, shared.password, shared.min_replicas) == ("knocker", "pass word", 2)
    assert settings.warnings == ()


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        "store: 'rediss://knocker@x', password_file: p, tls_cert_file: c, tls_ca_file: a",
        p="the-pass-word",
        c=PEM + KEY,
        a=PEM,
    )
    assert "the-pass-word" not in repr(settings)
    assert "PRIVATE KEY" not in repr(settings)


@pytest.mark.parametrize(
    ("whitelist", "files", "place"),
    [
        pytest.param("store: 'redis://u@x', password_file: p", {}, "password_file", id="no such file"),
        pytest.param("store: 'redis://u@x', password_file: p", {"p": ""}, "password_file", id="an empty password"),
        pytest.param("store: 'redis://u@x', password_file: p", {"p": "a\nb"}, "password_file", id="two lines"),
        pytest.param("store: 'redis://u@x', password_file: p", {"p": "ä"}, "password_file", id="not ASCII"),
        pytest.param("store: 'redis://u@x', password_file: p", {"p": "CHANGE_ME"}, "password_file", id="a placeholder"),
        pytest.param("store: 'rediss://x', tls_ca_file: a", {"a": "no"}, "tls_ca_file", id="no certificate"),
        pytest.param("store: 'rediss://x', tls_cert_file: a", {"a": PEM}, "tls_cert_file", id="without its key"),
        pytest.param("store: 'rediss://x', tls_cert_file: a", {}, "tls_cert_file", id="no such certificate"),
        pytest.param("store: 'redis://u:secret-word@x'", {}, "store", id="a password in the address"),
        pytest.param("store: 'redis://u:secret-word@x:port'", {}, "store", id="the same in a wrong address"),
        pytest.param("store: 'http://u:secret-word@x'", {}, "store", id="the same for another protocol"),
    ],
)
def test_a_fault_names_its_place_and_shows_no_secret(
    whitelist: str, files: dict[str, str], place: str, tmp_path: Path
) -> None:
    with pytest.raises(Faulty) as caught:
        read(tmp_path, whitelist, **files)
    (fault,) = caught.value.faults
    assert f"knocker.yaml: whitelist.{place}: " in fault
    assert "secret-word" not in fault


def test_what_others_can_read_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "c").write_text(PEM + KEY)
    (tmp_path / "c").chmod(0o644)
    settings = read(tmp_path, "store: 'rediss://x', tls_cert_file: c")
    assert len(settings.warnings) == 1
    assert "group or others can read it" in settings.warnings[0]


def test_a_file_beside_a_store_is_warned_of() -> None:
    settings = parse(f"{KEYS}whitelist: {{store: 'redis://x', storage_path: whitelist.json}}\n".encode())
    assert len(settings.warnings) == 1
    assert "knocker store copy" in settings.warnings[0]
