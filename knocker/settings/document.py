"""One strict YAML document: no duplicate keys, aliases, tags or second document, and no value quoted in an error."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

import yaml

MOST_BYTES = 1 << 20


class Unreadable(Exception):
    """The text is no document that settings could be read from; the message says why and where."""


class _Strict(yaml.SafeLoader):
    """PyYAML's safe loader without what can surprise: aliases, tags, repeated keys, merge keys."""

    known: Container[str] = ()

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise Unreadable(f"line {self._line()}: aliases (*name) are not allowed")
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise Unreadable(f"line {self._line()}: anchors (&name) are not allowed")
        if getattr(event, "tag", None) not in (None, "!"):
            raise Unreadable(f"line {self._line()}: tags (!name) are not allowed")
        return super().compose_node(parent, index)

    def _line(self) -> int:
        return int(self.peek_event().start_mark.line) + 1  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise Unreadable(f"line {line}: a setting's name is a plain word")
            if key.tag == "tag:yaml.org,2002:merge":
                raise Unreadable(f"line {line}: merge keys (<<) are not allowed")
            if key.value in names:
                # Only a name that the product knows may be shown: another could be a key in the wrong place.
                name = f"the setting {key.value}" if key.value in self.known else "a setting"
                raise Unreadable(f"line {line}: {name} stands here a second time")
            names.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        # YAML 1.1 reads 1:30 as 90 and 010 as 8: nobody who writes a port or a ttl means that.
        if not re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", str(node.value)) or len(node.value) > 30:
            return str(node.value)
        return int(node.value)


_Strict.add_constructor("tag:yaml.org,2002:int", _Strict.construct_yaml_int)


# What helps with the mistakes that people make, by what PyYAML says of them.
_HINTS = {
    r"'\t'": "indent with spaces, not with a tab",
    "cannot start any token": "a text that begins so needs quotes",
    "mapping values are not allowed": "a text with a colon needs quotes, and all names of one mapping the same indent",
    "could not find expected ':'": "a name without a colon, in this line or the one before",
    "expected <block end>": "all names of one mapping need the same indent",
    "unexpected end of stream": "a quote or a bracket is not closed",
}


def read(data: bytes, known: Container[str] = ()) -> Any:
    """The document's value; raises Unreadable. `known`: the names of settings, which a message may show."""
    if len(data) > MOST_BYTES:
        raise Unreadable(f"the file is over {MOST_BYTES} bytes long")
    try:
        text = data.decode("utf-8-sig")
    except ValueError:
        raise Unreadable("the file is not UTF-8 text") from None
    try:
        loader = _Strict(text)
        loader.known = known
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = error.problem or "unreadable"
        hint = next((f"; {hint}" for said, hint in _HINTS.items() if said in problem), "")
        raise Unreadable(f"{where}not valid YAML: {_without_quotes(problem)}{hint}") from None
    except yaml.YAMLError:  # a ReaderError quotes the character, and its position is in characters
        raise Unreadable("the file holds a character that YAML does not allow") from None
    except RecursionError:
        raise Unreadable("the file is nested too deeply") from None
    except (ValueError, OverflowError):
        raise Unreadable("a value is no date, time or number, though it looks like one") from None


def _without_quotes(problem: str) -> str:
    return re.sub(r"""(['"]).{2,}\1""", "'...'", problem)
