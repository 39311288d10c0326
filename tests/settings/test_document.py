"""The YAML beneath the settings: one strict document, and no value of it in any message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knocker.settings import Faulty, parse
from knocker.settings.document import MOST_BYTES

GOOD = "api_keys: [{key: 'Xy7kQ2mZ9pLw4RtB8s', ttl: 60}]\n"
SECRET = "Qm3vT8xK1nZr5WbY7d"


def faults_of(data: bytes) -> list[str]:
    with pytest.raises(Faulty) as caught:
        parse(data, "knocker.yaml")
    return caught.value.faults


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(
            "server: {port: 1, port: 2}", "line 1: the setting port stands here a second time", id="a duplicate"
        ),
        pytest.param("server: {port: 1, 'port': 1}", "a second time", id="a duplicate, once in quotes, even equal"),
        pytest.param(
            "cors: {}\nserver: {}\ncors: {}", "line 3: the setting cors", id="a duplicate section, with its line"
        ),
        pytest.param("api_keys: [{ttl: 1, ttl: 2}]", "a second time", id="a duplicate inside a list"),
        pytest.param("a: &x 1\nb: *x", "line 1: anchors", id="an anchor"),
        pytest.param("a: 1\nb: *x", "line 2: aliases", id="an alias"),
        pytest.param("api_keys:\n  - &key {ttl: 1}", "line 2: anchors", id="an anchor on a mapping"),
        pytest.param("server: {port: !!int '80'}", "tags", id="a standard tag"),
        pytest.param("a: !secret x", "tags", id="a tag of somebody's own"),
        pytest.param("a: !!python/object/apply:os.system [id]", "tags", id="a tag that would run a command"),
        pytest.param("a: !<tag:yaml.org,2002:str> x", "tags", id="a verbatim tag"),
        pytest.param("server: {<<: {port: 80}}", "<<", id="a merge key is no setting"),
        pytest.param("server: {port: 80, <<: {port: 81}}", "<<", id="a merge key hides no duplicate"),
        pytest.param(GOOD + "---\n" + GOOD, "another document", id="a second document"),
        pytest.param("? [a, b]\n: c", "line 1: a setting's name is a plain word", id="a list as a name"),
        pytest.param("a: [", "not valid YAML", id="cut short"),
        pytest.param(
            "a: b: c",
            "line 1, column 5: not valid YAML: mapping values are not allowed here; a text with a colon needs quotes",
            id="two colons, with the place",
        ),
        pytest.param("a:\n\tb: 1", "cannot start any token; indent with spaces, not with a tab", id="a tab"),
        pytest.param("a: 'x", "; a quote or a bracket is not closed", id="an open quote"),
        pytest.param("a: @b", "; a text that begins so needs quotes", id="a text that needs quotes"),
        pytest.param("a:\n   b: 1\n  c: 1", "; all names of one mapping need the same indent", id="an indent"),
        pytest.param('a: "\\q"', "not valid YAML", id="an unknown escape"),
        pytest.param("a: 2027-13-45", "looks like one", id="a date that is none"),
        pytest.param("a: \x00", "a character that YAML does not allow", id="a NUL"),
        pytest.param("[" * 20_000, "nested too deeply", id="nested too deeply"),
        pytest.param("- " * 5_000, "nested too deeply", id="nested too deeply, in block style"),
        pytest.param("", "the file is empty", id="nothing"),
        pytest.param("# only a comment\n", "the file is empty", id="only a comment"),
        pytest.param("just text", "expected a mapping of settings", id="a text"),
        pytest.param("- a\n- b", "expected a mapping of settings", id="a list"),
    ],
)
def test_what_is_no_strict_document_is_refused_in_words(text: str, words: str) -> None:
    faults = faults_of(text.encode())
    assert len(faults) == 1
    assert faults[0].startswith("knocker.yaml: ")
    assert words in faults[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"a: \xff", "not UTF-8", id="Latin-1"),
        pytest.param(GOOD.encode("utf-16"), "not UTF-8", id="UTF-16"),
        pytest.param(b"#" * (MOST_BYTES + 1), "bytes long", id="too long"),
    ],
)
def test_bytes_that_are_no_text_are_refused_in_words(data: bytes, words: str) -> None:
    assert words in " ".join(faults_of(data))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff" + GOOD, id="with a byte order mark"),
        pytest.param(GOOD.replace("\n", "\r\n"), id="with line ends of Windows"),
        pytest.param("---\n" + GOOD + "...\n", id="with its marks"),
        pytest.param("# a comment: {with: [everything\n" + GOOD, id="with a comment"),
        pytest.param(GOOD + "server:\nwhitelist:\nsecurity:\n", id="with empty sections"),
    ],
)
def test_ordinary_documents_are_read(text: str) -> None:
    assert [key.name for key in parse(text.encode()).keys] == ["key-1"]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("010", id="YAML 1.1 reads it as eight"),
        pytest.param("1:30", id="YAML 1.1 reads it as ninety"),
        pytest.param("1_000", id="an underscore"),
        pytest.param("0x50", id="hexadecimal"),
        pytest.param("0b101", id="binary"),
        pytest.param("80.0", id="a fraction"),
        pytest.param("8e1", id="an exponent"),
        pytest.param("yes", id="a boolean"),
        pytest.param("'80'", id="a text"),
        pytest.param("9" * 5000, id="more digits than int() takes"),
    ],
)
def test_a_number_is_only_what_everybody_reads_as_that_number(value: str) -> None:
    faults = faults_of(f"{GOOD}server: {{port: {value}}}".encode())
    assert [fault.partition(": expected")[0] for fault in faults] == ["knocker.yaml: server.port"]


@pytest.mark.parametrize(
    "line",
    [
        "key: {}: x",
        "key: '{}",
        'key: "{}',
        'key: "{}\\q"',
        'key: "{}\\xzz"',
        "key: @{}",
        "key: %{}",
        "key: `{}",
        "key: *{}",
        "key: &{} x",
        "key: !{} x",
        "key: !{}!x y",
        "key: !<{}> y",
        "key: !!{} y",
        "key: |{}",
        "key: {}\n    bad",
        "key: [{}",
        "key: {{{}",
        "key: ]{}",
        "'{}' x: y",
        "{}: 1, {}: 2",
        "? {}\n    ? [",
        "<<: {}",
        "'=': {}",
        "key: {}\n%{} x",
        "key: {}\n---\nkey: {}",
        "key: {}\n... {}",
        "key: {}\x00",
        "2027-13-45: {}",
        "\tkey: {}",
    ],
)
def test_no_message_about_broken_yaml_shows_a_value(line: str) -> None:
    text = "api_keys:\n  - ttl: 60\n    " + line.replace("{{", "{").replace("{}", SECRET)
    assert SECRET not in " ".join(faults_of(text.encode()))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"api_keys: {{{SECRET}: 60, {SECRET}: 70}}", id="a mapping of keys"),
        pytest.param(f"api_keys: [{{key: {{{SECRET}: 1, {SECRET}: 1}}}}]", id="in the place of a key"),
        pytest.param(f"api_keys:\n  - {SECRET}:\n    {SECRET}:\n", id="to the left of a colon"),
    ],
)
def test_a_key_that_stands_twice_to_the_left_of_a_colon_is_not_shown(text: str) -> None:
    assert SECRET not in " ".join(faults_of(text.encode()))


@given(data=st.binary(max_size=80) | st.text("{}[]:,-&*!|>'\"%@`#? \n\tab01", max_size=60).map(str.encode))
def test_no_bytes_do_more_than_fault(data: bytes) -> None:
    faults: list[str] | None = None
    try:
        parse(data)
    except Faulty as faulty:
        faults = faulty.faults
    # A fault at least, each on one line; few of these texts have a key.
    assert faults is None or (faults and not any("\n" in fault for fault in faults))
