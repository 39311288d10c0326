"""Excluded paths: against a segment-wise model, and against what servers make of a path."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.core.paths import Exclusion, Exclusions, asked_path, is_plain

SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@")

# Paths from pieces that servers are known to read differently, so that many fall under an entry but for one of them.
_HARMLESS = [
    "metrics",
    "api",
    "v1",
    "METRICS",
    "metricsx",
    "a",
    ".well-known",
    "...",
    "a,b",
    "~",
    "@",
    "a:b",
    "(x)",
    "$&'!+=",
]
_DOTS = [".", "..", "%2e%2e", "%2E", "%252e%252e", "..;", "..%2f", "%5c..", "..\\", "%u002e", "%c0%ae"]
_OTHERS = ["", "*", "\\", "%2f", "%00", "#", ";x=1", "a;b", "a b", "\t", "\xe9"]
_PIECES = st.sampled_from([*_HARMLESS, *_DOTS, *_OTHERS])
TAILS = st.lists(_PIECES, max_size=5).map(lambda pieces: "".join("/" + piece for piece in pieces))
ENTRIES = st.sampled_from(["/metrics", "/metrics/", "/api/v1", "/a", "/a/", "/api/v1/*", "/metrics*", "/.well-known/*"])
PATHS = TAILS | st.builds(lambda entry, tail: entry.rstrip("*") + tail, ENTRIES, TAILS | _PIECES)


def model_plain(path: str) -> bool:
    if not path.startswith("/"):
        return False
    segments = path[1:].split("/")
    return all(
        set(segment) <= SAFE and segment not in (".", "..") and (segment or index == len(segments) - 1)
        for index, segment in enumerate(segments)
    )


def model_covers(entry: str, path: str) -> bool:
    if entry.endswith("*"):
        return path[: len(entry) - 1] == entry[:-1]
    wanted, asked = entry[1:].split("/"), path[1:].split("/")
    if wanted[-1] == "":  # "/a/": everything below, and that itself
        return asked[: len(wanted) - 1] == wanted[:-1] and len(asked) >= len(wanted)
    return asked[: len(wanted)] == wanted


@given(entry=ENTRIES, path=PATHS)
def test_an_entry_covers_what_a_segment_wise_model_says(entry: str, path: str) -> None:
    assert is_plain(path) == model_plain(path)
    covered = Exclusions([Exclusion.parse(entry)]).cover(path, None) is not None
    assert covered == (model_plain(path) and model_covers(entry, path))


def _merged(path: str) -> str:
    return re.sub("/+", "/", path)


def _resolved(path: str) -> str:
    """RFC 3986 5.2.4, as browsers and Java servers do it after decoding."""
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


READERS: list[tuple[str, Callable[[str], str]]] = [
    ("normpath", posixpath.normpath),
    ("decoded once", unquote),
    ("decoded twice", lambda path: unquote(unquote(path))),
    ("backslashes turned", lambda path: path.replace("\\", "/")),
    ("slashes merged", _merged),
    ("parameters stripped", lambda path: re.sub(";[^/]*", "", path)),
    ("cut at # and ?", lambda path: re.split("[#?]", path)[0]),
    ("cut at NUL", lambda path: unquote(path).split("\0")[0]),
    ("all of a Java server", lambda path: _resolved(_merged(re.sub(";[^/]*", "", unquote(path))))),
    ("all of IIS", lambda path: _resolved(_merged(unquote(unquote(path)).replace("\\", "/")))),
]


_LIKELY = st.lists(st.one_of(st.sampled_from(_HARMLESS), st.sampled_from(_HARMLESS), _PIECES), max_size=4)


@given(entry=ENTRIES, pieces=_LIKELY, start=st.sampled_from(["/", "/", ""]))
def test_however_a_server_reads_a_covered_path_it_lies_under_the_entry(
    entry: str, pieces: list[str], start: str
) -> None:
    path = entry.removesuffix("*") + start + "/".join(pieces)
    if Exclusions([Exclusion.parse(entry)]).cover(path, None) is None:
        return
    for name, read in READERS:
        if entry.endswith("*"):
            assert read(path).startswith(entry[:-1].rstrip("/")), name
        else:
            prefix = entry.rstrip("/")
            assert read(path) == prefix or read(path).startswith(prefix + "/"), name


@pytest.mark.parametrize(
    ("entry", "path", "covered"),
    [
        pytest.param("/metrics", "/metrics", True, id="itself"),
        pytest.param("/metrics", "/metrics/", True, id="with a trailing slash"),
        pytest.param("/metrics", "/metrics/x", True, id="below"),
        pytest.param("/metrics", "/metricsx", False, id="whole segments only"),
        pytest.param("/metrics", "/Metrics", False, id="case matters"),
        pytest.param("/metrics", "/x/metrics", False, id="only from the root"),
        pytest.param("/metrics", "//metrics", False, id="an empty segment"),
        pytest.param("/metrics", "/metrics//x", False, id="an empty inner segment"),
        pytest.param("/metrics", "/metrics//", False, id="an empty inner segment at the end"),
        pytest.param("/metrics", "/metrics/../admin", False, id="dot segments"),
        pytest.param("/metrics", "/metrics/.", False, id="a single dot"),
        pytest.param("/metrics", "/metrics/..x", True, id="dots that are a name"),
        pytest.param("/metrics", "/metrics/%2e%2e/admin", False, id="encoded"),
        pytest.param("/metrics", "/metrics/..;/admin", False, id="path parameters"),
        pytest.param("/metrics", "/metrics/..\\admin", False, id="a backslash"),
        pytest.param("/metrics", "/metrics\n", False, id="a line break at the end"),
        pytest.param("/metrics", "metrics", False, id="no leading slash"),
        pytest.param("/metrics", "", False, id="nothing"),
        pytest.param("/metrics/", "/metrics/x", True, id="an entry with a slash"),
        pytest.param("/metrics/", "/metrics/", True, id="an entry with a slash, itself"),
        pytest.param("/metrics*", "/metricsx/y", True, id="a star opts into the bare prefix"),
        pytest.param("/metrics*", "/metrics/../x", False, id="a star opens no dot segments"),
        pytest.param("/api/v1/*", "/api/v1/", True, id="a star after a slash"),
        pytest.param("/api/v1/*", "/api/v1", False, id="a star after a slash needs the slash"),
    ],
)
def test_an_exclusion_covers_whole_segments_of_plain_paths(entry: str, path: str, covered: bool) -> None:
    assert (Exclusions([Exclusion.parse(entry)]).cover(path, None) is not None) is covered


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("/", id="the root"),
        pytest.param("*", id="a star"),
        pytest.param("/*", id="the root and a star"),
        pytest.param("metrics", id="no leading slash"),
        pytest.param("https://app.example.com/x", id="a URL"),
        pytest.param("//metrics", id="an empty segment"),
        pytest.param("/a//b", id="an empty inner segment"),
        pytest.param("/a/../b", id="a dot segment"),
        pytest.param("/a/.", id="a dot at the end"),
        pytest.param("/a/../*", id="a dot segment before a star"),
        pytest.param("/a%20b", id="an encoded character"),
        pytest.param("/a;b", id="a parameter"),
        pytest.param("/a\\b", id="a backslash"),
        pytest.param("/a?b=c", id="a query"),
        pytest.param("/a#b", id="a fragment"),
        pytest.param("/a b", id="a space"),
        pytest.param("/a\n", id="a line break"),
        pytest.param("/\N{LATIN SMALL LETTER E WITH ACUTE}", id="not ASCII"),
    ],
)
def test_entries_that_could_never_match_or_open_everything_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Exclusion.parse(text)


_WRITTEN = st.builds(
    lambda pieces, end: "/" + "/".join(pieces) + end,
    st.lists(st.sampled_from([*_HARMLESS, "", "..", "%2f"]), max_size=3),
    st.sampled_from(["", "/", "*", "/*"]),
)


@given(text=_WRITTEN | st.text("/a.*%;", max_size=8))
def test_an_entry_that_is_taken_matches_something_and_never_the_root(text: str) -> None:
    try:
        entry = Exclusion.parse(text)
    except ValueError:
        return
    found = Exclusions([entry])
    assert any(found.cover(entry.prefix + end, None) for end in ("", "x"))
    assert found.cover("/", None) is None


def test_exclusions_of_one_host_open_nothing_elsewhere() -> None:
    found = Exclusions([Exclusion.parse("/all")], {"app.example.com": [Exclusion.parse("/health")]})
    assert found.cover("/health", "app.example.com")
    assert found.cover("/all", "app.example.com")
    assert found.cover("/all", "other.example.com")
    assert found.cover("/all", None)
    assert not found.cover("/health", "other.example.com")
    assert not found.cover("/health", None)


def test_an_exclusion_says_what_it_covers() -> None:
    assert str(Exclusion.parse("/metrics")) == "/metrics and all below it"
    assert str(Exclusion.parse("/metrics/")) == "all below /metrics/"
    assert str(Exclusion.parse("/metrics*")) == "every path that begins with /metrics"


@pytest.mark.parametrize(
    ("tail", "forwarded", "original", "path"),
    [
        pytest.param(b"", [b"/metrics"], [], "/metrics", id="Caddy and Traefik: X-Forwarded-Uri"),
        pytest.param(b"", [b"/metrics?q=/x"], [], "/metrics", id="up to the question mark"),
        pytest.param(b"?client=query", [b"/metrics"], [], "/metrics", id="verify's own query is never read"),
        pytest.param(b"/metrics?q", [], [], "/metrics", id="Envoy: what follows /verify"),
        pytest.param(b"/metrics", [b"/metrics"], [b"/metrics"], "/metrics", id="all three equal"),
        pytest.param(b"/metrics?q", [b"/metrics?q"], [], "/metrics", id="equal with the query"),
        pytest.param(b"/", [], [], "/", id="Envoy's root"),
        pytest.param(b"", [], [], None, id="no path at all"),
        pytest.param(b"?x=/metrics", [], [], None, id="a query is no path"),
        pytest.param(b"", [], [b"/metrics"], None, id="X-Original-URI is no source"),
        pytest.param(b"", [b"/admin"], [b"/metrics"], None, id="the client sent another X-Original-URI"),
        pytest.param(b"/admin", [b"/metrics"], [], None, id="the client sent X-Forwarded-Uri to Envoy"),
        pytest.param(b"/metrics", [b"/metrics?"], [], None, id="equal byte for byte"),
        pytest.param(b"/metrics?a", [b"/metrics?b"], [], None, id="another query is another text"),
        pytest.param(b"", [b"/metrics", b"/metrics"], [], None, id="a repeated line, even an equal one"),
        pytest.param(b"", [b"/metrics"], [b"/metrics", b"/metrics"], None, id="a repeated X-Original-URI"),
        pytest.param(b"/metrics", [b""], [], None, id="an empty line is another one"),
        pytest.param(b"", [b"/metrics"], [b""], None, id="an empty X-Original-URI too"),
        pytest.param(b"", [b"/metrics, /admin"], [], None, id="two values in one line"),
        pytest.param(b"", [b"/metrics?x, /admin"], [], None, id="two values, the first with a query"),
        pytest.param(b"", [b"/metrics,/admin"], [], None, id="two values without a space"),
        pytest.param(b"", [b"/m\xc3\xa9trics"], [], None, id="bytes beyond ASCII"),
    ],
)
def test_the_path_is_known_only_where_nothing_contradicts_it(
    tail: bytes, forwarded: list[bytes], original: list[bytes], path: str | None
) -> None:
    assert asked_path(tail, forwarded, original) == path


URIS = st.sampled_from([b"/metrics", b"/metrics?q", b"/admin", b"", b"?q", b"/"])


@given(tail=URIS, forwarded=st.lists(URIS, max_size=2), original=st.lists(URIS, max_size=2))
def test_the_path_agrees_with_the_rule_written_out(tail: bytes, forwarded: list[bytes], original: list[bytes]) -> None:
    present = [*([tail] if tail.split(b"?")[0] else []), *forwarded, *original]
    source = tail if tail.split(b"?")[0] else (forwarded or [None])[0]  # type: ignore[list-item]
    doubtful = source is None or len(forwarded) > 1 or len(original) > 1 or any(one != source for one in present)
    expected = None if doubtful or source is None else source.split(b"?")[0].decode()
    assert asked_path(tail, forwarded, original) == expected
