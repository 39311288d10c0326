"""Host names in headers, and the scopes that keys have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.hosts import Scope, parse_name, read_host

LABELS = st.sampled_from(["a", "app", "example", "com", "x-y", "_dmarc", "1", "b" * 63])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


@pytest.mark.parametrize(
    ("value", "host"),
    [
        pytest.param(b"app.example.com", "app.example.com", id="as it is"),
        pytest.param(b"APP.Example.COM", "app.example.com", id="lower case"),
        pytest.param(b"app.example.com:8443", "app.example.com", id="without port"),
        pytest.param(b"app.example.com.", "app.example.com", id="without one trailing dot"),
        pytest.param(b"app.example.com.:443", "app.example.com", id="without dot and port"),
        pytest.param(b" app.example.com\t", "app.example.com", id="blanks around"),
        pytest.param(b"192.0.2.1:80", "192.0.2.1", id="an IPv4 address"),
        pytest.param(b"[2001:DB8::1]:80", "[2001:db8::1]", id="an IPv6 address"),
        pytest.param(b"localhost", "localhost", id="one label"),
        pytest.param(b"my_app.example.com", "my_app.example.com", id="an underscore, which containers have"),
        pytest.param(b"app.example.com..", None, id="two trailing dots"),
        pytest.param(b".example.com", None, id="an empty label"),
        pytest.param(b"a..b", None, id="an empty label inside"),
        pytest.param(b"", None, id="nothing"),
        pytest.param(b".", None, id="a dot"),
        pytest.param(b":443", None, id="a port alone"),
        pytest.param(b"a.example, b.example", None, id="two values in one line"),
        pytest.param(b"a.example b.example", None, id="a space inside"),
        pytest.param(b"app.example.com:", None, id="an empty port"),
        pytest.param(b"app.example.com:x", None, id="a port that is no number"),
        pytest.param(b"app.example.com:80:81", None, id="two ports"),
        pytest.param(b"user@app.example.com", None, id="user information"),
        pytest.param(b"app.example.com/x", None, id="a path"),
        pytest.param(b"*.example.com", None, id="a star"),
        pytest.param(b"-a.example.com", None, id="a label that begins with a hyphen"),
        pytest.param(b"a-.example.com", None, id="a label that ends with one"),
        pytest.param(b"b" * 64 + b".com", None, id="a label over 63 characters"),
        pytest.param(b".".join([b"b" * 63] * 4), None, id="over 253 characters"),
        pytest.param(b"app.ex\xc3\xa4mple.com", None, id="bytes beyond ASCII"),
        pytest.param(b"app.example.com\n", None, id="a line break"),
        pytest.param(b"app.example.com\x00", None, id="a NUL"),
        pytest.param(b"2001:db8::1", None, id="IPv6 without brackets"),
        pytest.param(b"[::1", None, id="an open bracket"),
        pytest.param(b"[::1].", None, id="a dot after brackets"),
    ],
)
def test_a_host_is_one_plain_name_or_none(value: bytes, host: str | None) -> None:
    assert read_host(value) == host


@given(name=NAMES, upper=st.booleans(), dot=st.booleans(), port=st.none() | st.integers(0, 65535))
def test_every_spelling_of_a_name_reads_alike(name: str, upper: bool, dot: bool, port: int | None) -> None:
    spelt = (name.upper() if upper else name) + "." * dot + (f":{port}" if port is not None else "")
    expected = name if len(name) <= 253 else None
    assert read_host(spelt.encode()) == expected
    if expected:
        assert parse_name(name.upper() + "." * dot) == name


@given(value=st.binary(max_size=40))
def test_whatever_reads_as_a_host_reads_as_itself(value: bytes) -> None:
    host = read_host(value)
    assert host is None or read_host(host.encode("ascii")) == host


@pytest.mark.parametrize(
    ("pattern", "host", "opens"),
    [
        pytest.param("app.example.com", "app.example.com", True, id="a literal name"),
        pytest.param("App.Example.com.", "app.example.com", True, id="settings may spell it otherwise"),
        pytest.param("app.example.com", "x.app.example.com", False, id="nothing below a literal name"),
        pytest.param("app.example.com", "example.com", False, id="nothing above it"),
        pytest.param("*.example.com", "app.example.com", True, id="one label below"),
        pytest.param("*.example.com", "a.b.example.com", True, id="two labels below"),
        pytest.param("*.example.com", "example.com", False, id="never the bare domain"),
        pytest.param("*.example.com", "badexample.com", False, id="whole labels only"),
        pytest.param("*.example.com", "app.example.com.evil.net", False, id="only at the end"),
        pytest.param("*.example.com", None, False, id="no host matches no scope"),
        pytest.param("app.example.com", None, False, id="no host matches no name"),
    ],
)
def test_a_scope_opens_the_names_that_it_lists(pattern: str, host: str | None, opens: bool) -> None:
    assert (host in Scope.parse([pattern])) is opens


@given(patterns=st.lists(st.tuples(st.booleans(), NAMES), max_size=4), host=NAMES)
def test_a_scope_agrees_with_a_label_wise_model(patterns: list[tuple[bool, str]], host: str) -> None:
    patterns = [(star, name) for star, name in patterns if len(name) <= 253]
    labels = host.split(".")
    expected = any(
        len(labels) > len(name.split(".")) and labels[-len(name.split(".")) :] == name.split(".")
        if star
        else labels == name.split(".")
        for star, name in patterns
    )
    scope = Scope.parse(f"*.{name}" if star else name for star, name in patterns)
    assert (host in scope) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("*", id="everything"),
        pytest.param("*.", id="a star and a dot"),
        pytest.param("*example.com", id="a star inside a label"),
        pytest.param("a.*.example.com", id="a star in the middle"),
        pytest.param("*.*.example.com", id="two stars"),
        pytest.param("app.example.com:443", id="a port, which no header's host has"),
        pytest.param("https://app.example.com", id="a URL"),
        pytest.param("", id="nothing"),
        pytest.param("ex\N{LATIN SMALL LETTER A WITH DIAERESIS}mple.com", id="not in punycode"),
        pytest.param(" app.example.com", id="a space"),
    ],
)
def test_patterns_that_no_header_could_equal_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError):
        Scope.parse([pattern])


def test_a_scope_says_what_it_opens() -> None:
    assert str(Scope.parse(["b.example", "*.example.com", "a.example"])) == "a.example, b.example, *.example.com"
