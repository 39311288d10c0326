"""knock_page and deny: what people are shown (contract 2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from knocker.settings import Faulty, load, parse
from knocker.settings.model import Deny, KnockPage

KEYS = 'api_keys: [{name: a, key: "key-0123456789-abcdef", ttl: 60}]\n'
PAGE = "knock_page: {url: https://knock.example.com}\n"


def faults(text: str) -> list[str]:
    with pytest.raises(Faulty) as caught:
        parse((KEYS + text).encode())
    return [fault.removeprefix("knocker.yaml: ") for fault in caught.value.faults]


def test_without_a_word_there_is_a_page_and_refusals_show_none() -> None:
    settings = parse(KEYS.encode())
    assert settings.knock_page == KnockPage(True, "", (), ())
    assert (settings.security.deny, settings.security.deny_by_host) == (Deny(401, False, None), {})


def test_an_address_becomes_an_origin() -> None:
    settings = parse(
        (
            KEYS + 'knock_page: {url: "https://Knock.Example.com:0443/", also: ["https://V4.Example.com:8443"],'
            ' return_to: ["*.Home.example.com", app.example.com]}'
        ).encode()
    )
    page = settings.knock_page
    assert (page.url, page.also) == ("https://knock.example.com", ("https://v4.example.com:8443",))
    assert page.hosts == {"knock.example.com", "v4.example.com"}
    assert sorted(page.return_to) == ["*.home.example.com", "app.example.com"]


def test_a_host_says_only_what_is_otherwise_there() -> None:
    security = parse(
        (
            KEYS + PAGE + "security: {deny: {status: 403, page: knock}, deny_by_host: {a.example: {status: 401},"
            " b.example: {page: none}, c.example: {}}}"
        ).encode()
    ).security
    assert security.deny == Deny(403, True)
    assert security.deny_by_host == {"a.example": Deny(401, True), "b.example": Deny(403), "c.example": Deny(403, True)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("security: {deny: {page: knock}}", ["security.deny.page: it links to knock_page.url, which must be set, and"]),
        (
            "knock_page: {enabled: false, url: https://k.example}\nsecurity: {deny: {page: knock}}",
            ["security.deny.page: it links to knock_page.url, which must be set, and knock_page.enabled be true"],
        ),
        (
            "security: {deny_by_host: {a.example: {page: knock}, b.example: {}}}",
            ["security.deny_by_host.a.example.page: it links to knock_page.url"],
        ),
        ("security: {deny: {page: 5}}", ["security.deny.page: expected a text on one line, got 5"]),
        ("knock_page: {enabled: 1}", ["knock_page.enabled: expected true or false, got 1"]),
        ("knock_page: {url: http://k.example}", ["knock_page.url: expected an address such as https://knock.example"]),
        ("knock_page: {url: 'https://k.example:99999'}", ["knock_page.url: expected an address whose port is"]),
        ("knock_page: {url: https://k.example/x}", ["knock_page.url: expected an address such as"]),
        ("knock_page: {return_to: [app.example]}", ["knock_page.return_to: nobody is led to the page"]),
        ("knock_page: {url: https://k.example, return_to: ['*']}", ["knock_page.return_to[0]: "]),
        ("knock_page: {url: https://k.example, return_to: ['https://a.example']}", ["knock_page.return_to[0]: "]),
    ],
)
def test_what_cannot_be_is_told(text: str, told: list[str]) -> None:
    found = faults(text)
    assert len(found) == len(told), found
    for one, start in zip(found, told, strict=True):
        assert one.startswith(start), one


def write(folder: Path, text: str) -> str:
    path = folder / "knocker.yaml"
    path.write_text(KEYS + text, encoding="utf-8")
    path.chmod(0o600)
    return str(path)


def test_a_page_of_the_admins_own_is_read_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "denied.html").write_text("<p>Ask Jö.</p>", encoding="utf-8")
    path = write(tmp_path, "security: {deny: {page: denied.html}, deny_by_host: {a.example: {status: 403}}}")
    security = load(path).security
    assert security.deny == Deny(401, False, "<p>Ask Jö.</p>".encode())
    assert security.deny_by_host["a.example"] == Deny(403, False, "<p>Ask Jö.</p>".encode())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file or directory"),
        (b"\xff", "is not UTF-8"),
        (b"a" * (256 * 1024 + 1), "is larger than 256 KiB"),
    ],
)
def test_a_page_that_is_none_is_a_fault(tmp_path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / "denied.html").write_bytes(content)
    with pytest.raises(Faulty) as caught:
        load(write(tmp_path, "security: {deny: {page: denied.html}}"))
    (fault,) = caught.value.faults
    assert "security.deny.page: " in fault
    assert told in fault


def test_a_folder_is_no_page(tmp_path: Path) -> None:
    (tmp_path / "denied.html").mkdir()
    with pytest.raises(Faulty, match="not a regular file"):
        load(write(tmp_path, "security: {deny: {page: denied.html}}"))
