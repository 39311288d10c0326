"""Excluded paths against servers that each read a path in a way of their own."""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes

from hypothesis import event, example, given
from hypothesis import strategies as st

from knocker.core.paths import Exclusion, Exclusions
from tests.wire import World, answer

# How servers read a path. Text is bytes in latin-1, so that every byte has its place.


def decoded(path: str) -> str:
    return unquote_to_bytes(path.encode("latin-1", "replace")).decode("latin-1")


def normal(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def decodes_once(path: str) -> str:
    return normal(decoded(path))


def decodes_twice(path: str) -> str:
    return normal(decoded(decoded(path)))


def turns_backslashes(path: str) -> str:
    return normal(decoded(path).replace("\\", "/"))


def strips_parameters(path: str) -> str:
    """As servlet containers do: before decoding, then once more after it."""
    bare = "/".join(segment.partition(";")[0] for segment in path.split("/"))
    return normal("/".join(segment.partition(";")[0] for segment in decoded(bare).split("/")))


def folds_like_windows(path: str) -> str:
    """Backslashes and runs of slashes are one slash, dots and spaces at a segment's end are nothing, nor is case."""
    merged = re.sub(r"[/\\]+", "/", decoded(path))
    segments = [part if part in (".", "..") else part.partition(":$")[0].rstrip(". ") for part in merged.split("/")]
    return normal("/".join(segments)).lower()


def cuts_and_reads_overlong(path: str) -> str:
    """Cut at what ends a path, before and after decoding; overlong UTF-8 is what it stands for."""
    text = re.split(r"[#?\x00]", decoded(re.split(r"[#?]", path)[0]))[0]
    for overlong, meant in (("\xc0\xae", "."), ("\xc0\xaf", "/"), ("\xe0\x80\xae", "."), ("\xe0\x80\xaf", "/")):
        text = text.replace(overlong, meant)
    return normal(re.sub(r"%u00([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text))


READERS: list[Callable[[str], str]] = [
    decodes_once,
    decodes_twice,
    turns_backslashes,
    strips_parameters,
    folds_like_windows,
    cuts_and_reads_overlong,
]


def strays(entry: str, path: str) -> list[str]:
    """The servers for which the path lies elsewhere than the entry says."""
    found = []
    for read in READERS:
        prefix, seen = entry, read(path)
        if read is folds_like_windows:
            prefix = prefix.lower()
        if entry.endswith("*"):
            # Servers drop the slash at the end, and then the entry's too.
            below = seen.startswith(prefix[:-1]) or seen == prefix[:-1].rstrip("/")
        else:
            bare = prefix.rstrip("/")
            below = seen == bare or seen.startswith(bare + "/")
        if not below:
            found.append(f"{read.__name__}: {seen}")
    return found


# The rule of contract 3.2.

PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@")


def reads_alike(path: str) -> bool:
    """Whether the rule lets any exclusion apply to the path."""
    if path[:1] != "/":
        return False
    segments = path[1:].split("/")
    last = len(segments) - 1
    return all(
        set(segment) <= PLAIN and segment not in (".", "..") and (segment != "" or number == last)
        for number, segment in enumerate(segments)
    )


def opens(entry: str, path: str) -> bool:
    """Whether the entry opens the path."""
    if not reads_alike(path):
        return False
    if entry.endswith("*"):
        return path.startswith(entry[:-1])
    return (path + "/").startswith(entry.rstrip("/") + "/") and (not entry.endswith("/") or path.startswith(entry))


# Paths near the entries.

ENTRIES = ["/metrics", "/metrics/", "/api/v1", "/api/v1/*", "/metrics*", "/.well-known/*", "/a.b/", "/API"]
HARMLESS = [
    "metrics",
    "metric",
    "s",
    "api",
    "v1",
    "x",
    "admin",
    "METRICS",
    "...",
    "..x",
    "x..",
    ".x",
    "~",
    "a,b",
    "(1)",
]
SEPARATORS = ["/", "/", "/", "/", ""]
HOSTILE = [
    "..", ".", "//", "\\", "\\..\\", ";", ";x=1", "..;", "..;a", ";/..", "%2e", "%2E%2e", "..%2f", "%2f..%2F",
    "%5c..%5C",
    "%5c", "%252e%252e%252f", "%25", "%252f", "%00", "%00/../", "#", "#/../", "?", "%3f", "%23", "%3b/../", "..%3b",
    "%c0%ae%c0%ae", "%c0%af", "..%c0%af", "%e0%80%ae", "%u002e%u002e%u002f", "%", "%zz", "%2", " ", "%20", ".. ",
    "..%20",
    ". .", "\t", "\x0b", "\x00", "\n", "\r", "\x7f", "\x80", "\xe9", "\xff", "\xc0\xae", "*", "^", "|", "`", '"', "<",
    "{", "[",
    "::$INDEX_ALLOCATION", ":", "@", "http://x/", "&", "+", "=", "!", "'",
]  # fmt: skip


@st.composite
def near_paths(draw: st.DrawFn, entry: str, excluded: str = "") -> str:
    """A path that begins near the entry and has few kinds of hostile pieces, so that each meets the rule alone."""
    few = draw(st.lists(st.sampled_from([piece for piece in HOSTILE if not set(piece) & set(excluded)]), max_size=2))
    pieces = st.sampled_from([*HARMLESS, *few, *few, *few, *few, *few, *few])
    start = entry.rstrip("*")
    start = draw(
        st.sampled_from([start, start, start, start + "/", start.rstrip("/"), start[:-1], start.upper(), "", "/"])
    )
    tail = draw(st.lists(st.tuples(st.sampled_from(SEPARATORS), pieces), max_size=5))
    return start + "".join(separator + piece for separator, piece in tail) + draw(st.sampled_from(["", "", "/"]))


CASES = st.sampled_from(ENTRIES).flatmap(lambda entry: st.tuples(st.just(entry), near_paths(entry)))


@given(case=CASES)
@example(case=("/metrics", "/metrics/..;/admin"))
@example(case=("/metrics", "/metrics/%2e%2e/admin"))
@example(case=("/metrics", "/metrics/..%5cadmin"))
@example(case=("/metrics", "/metrics/.../admin"))
@example(case=("/metrics*", "/metrics../admin"))
@example(case=("/metrics/", "/metrics//"))
@example(case=("/API", "/api"))
def test_what_is_excluded_lies_below_the_entry_for_every_server(case: tuple[str, str]) -> None:
    entry, path = case
    covered = Exclusions([Exclusion.parse(entry)]).cover(path, None) is not None
    event(f"covered: {covered}")
    assert covered == opens(entry, path)
    if covered:
        assert strays(entry, path) == []


def test_no_hostile_piece_leads_out_of_an_entry() -> None:
    for entry in ENTRIES:
        start = entry.rstrip("*")
        for piece in HOSTILE:
            for path in (
                start + piece,
                f"{start}/{piece}/admin",
                f"{start}/x{piece}/../admin",
                f"{start}/x/{piece}admin",
            ):
                covered = Exclusions([Exclusion.parse(entry)]).cover(path, None) is not None
                assert covered == opens(entry, path), (entry, path)
                assert not covered or strays(entry, path) == []


@given(path=st.text(st.characters(max_codepoint=0x100), max_size=12).map(lambda tail: "/metrics/" + tail))
def test_any_characters_at_all_are_judged_by_the_rule(path: str) -> None:
    covered = Exclusions([Exclusion.parse("/metrics")]).cover(path, None) is not None
    assert covered == opens("/metrics", path)
    if covered:
        assert strays("/metrics", path) == []


@given(case=CASES, host=st.sampled_from([None, "a.example.com", "b.example.com"]))
def test_an_entry_of_one_host_opens_the_same_there_and_nothing_elsewhere(
    case: tuple[str, str], host: str | None
) -> None:
    entry, path = case
    found = Exclusions((), {"a.example.com": [Exclusion.parse(entry)]})
    assert (found.cover(path, host) is not None) == (host == "a.example.com" and opens(entry, path))


# The whole way.

SETTINGS = """
server: {{trusted_proxies: ["127.0.0.1"]}}
security: {{excluded_paths: ["{entry}"]}}
api_keys: [{{name: user, key: "usr-Tn5c8Qe1Wz7Ux3Ib9Om2Pk6Gv4Dh0Sl", ttl: 600}}]
"""
QUERIES = st.sampled_from(["", "", "?", "?q", "?a=/../x", "?x,y", "?x, /admin", "?x,/admin", "?x,\t/admin", "??", "?#"])
IN_A_LINE = "\x00\r\n"
IN_A_TARGET = "".join(map(chr, [*range(33), *range(127, 256)]))


@st.composite
def questions(draw: st.DrawFn) -> tuple[str, str, list[str], list[str]]:
    """An excluded path, what follows /verify, and the lines of X-Forwarded-Uri and X-Original-URI."""
    entry = draw(st.sampled_from(ENTRIES))
    asked = draw(near_paths(entry, IN_A_TARGET)) + draw(QUERIES).replace("\t", "").replace(" ", "")
    other = st.builds(lambda path, query: path + query, near_paths(entry, IN_A_LINE), QUERIES)
    value = st.one_of(
        st.just(asked), st.just(asked), st.just(asked + "?"), other, st.just(entry.rstrip("*")), st.just("")
    )
    lines = st.one_of(st.lists(value, max_size=1), st.lists(value, max_size=1), st.lists(value, max_size=2))
    tail = draw(st.sampled_from(["", "", "?client=/metrics", asked, asked, asked]))
    # What does not begin with / or ? would be another path than /verify.
    return entry, tail if tail[:1] in ("", "/", "?") else "", draw(lines), draw(lines) if draw(st.booleans()) else []


def path_asked(tail: str, uris: list[str], originals: list[str]) -> str | None:
    """The path of contract 3.2, or None where it is in doubt."""
    envoys = tail.partition("?")[0] != ""
    named = uris + originals
    if len(uris) > 1 or len(originals) > 1 or any(re.search(",[ \t]|,/", value) for value in named):
        return None
    if not envoys and not uris:
        return None
    source = tail if envoys else uris[0]
    return source.partition("?")[0] if all(value == source for value in named) else None


@given(question=questions())
@example(question=("/metrics", "/metrics", ["/admin"], []))
@example(question=("/metrics", "/admin", ["/metrics"], []))
@example(question=("/metrics", "", ["/metrics"], ["/admin"]))
@example(question=("/metrics", "/metrics?q", ["/metrics"], []))
@example(question=("/metrics", "", ["/metrics", "/metrics"], []))
@example(question=("/metrics", "", ["/metrics?x,\t/admin"], []))
def test_verify_opens_exactly_the_paths_of_the_rule(question: tuple[str, str, list[str], list[str]]) -> None:
    entry, tail, uris, originals = question
    # Blanks around a line's value are not part of it.
    uris, originals = [value.strip(" \t") for value in uris], [value.strip(" \t") for value in originals]
    path = path_asked(tail, uris, originals)
    expected = path is not None and opens(entry, path)
    fields = "".join(f"X-Forwarded-Uri: {value}\r\n" for value in uris)
    fields += "".join(f"X-Original-URI: {value}\r\n" for value in originals)
    raw = f"GET /verify{tail} HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: 198.51.100.7\r\n{fields}\r\n".encode("latin-1")
    with tempfile.TemporaryDirectory() as folder:
        found = answer(World(Path(folder), SETTINGS.format(entry=entry)).send(raw))
    event(f"answered {found.status}")
    assert found.status == (200 if expected else 401)
    if found.status == 200:
        assert path is not None
        assert strays(entry, path) == []
        assert found.headers["x-forwarded-for"] == "198.51.100.7"


@given(case=st.sampled_from(ENTRIES).flatmap(lambda entry: st.tuples(st.just(entry), near_paths(entry, IN_A_TARGET))))
def test_both_ways_of_asking_have_the_same_answer(case: tuple[str, str]) -> None:
    entry, path = case
    if path[:1] != "/" or re.search(",/", path):
        return
    head = "HTTP/1.1\r\nHost: k\r\nX-Forwarded-For: 198.51.100.7\r\n"
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), SETTINGS.format(entry=entry))
        envoy = answer(world.send(f"GET /verify{path} {head}\r\n".encode("latin-1")))
        caddy = answer(world.send(f"GET /verify {head}X-Forwarded-Uri: {path}\r\n\r\n".encode("latin-1")))
    assert (envoy.status, envoy.body) == (caddy.status, caddy.body)
