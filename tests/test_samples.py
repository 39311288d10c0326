"""What the docs show to copy: settings are good, and a command has the words that it is given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from knocker.account import account
from knocker.cli import main
from knocker.core.keys import generate
from knocker.settings import load
from tests.service import PROJECT

PAGES = sorted([PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])
KEY = generate(lambda size: bytes(range(size)))
SECRET = bytes(range(32)).hex()


def _samples(kind: str) -> list[tuple[Path, str]]:
    found = (
        (page, re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)) for page in PAGES
    )
    return [(page, text) for page, texts in found for text in texts]


def _settings() -> list[object]:
    return [
        pytest.param(text, id=f"{page.name} {number}")
        for number, (page, text) in enumerate(_samples("yaml"))
        if page.name != "command.md"
    ]


@pytest.mark.parametrize("sample", _settings())
def test_settings_that_are_shown_are_good(sample: str, tmp_path: Path) -> None:
    for name, content in (("redis", "a password of the store"), ("phone", KEY)):
        (tmp_path / name).write_text(content + "\n")
        (tmp_path / name).chmod(0o600)
    text = sample.replace("/run/secrets", str(tmp_path)).replace('"kn_..."', KEY).replace('"..."', f'"{SECRET}"')
    found = yaml.safe_load(text)
    found.setdefault("api_keys", [{"key": KEY, "ttl": 60}])
    path = tmp_path / "knocker.yaml"
    path.write_text(yaml.safe_dump(found))
    path.chmod(0o600)
    assert load(str(path)).warnings == ()


def test_the_settings_of_a_client_that_are_shown_are_good(tmp_path: Path) -> None:
    ((_, text),) = [(page, text) for page, text in _samples("yaml") if page.name == "command.md"]
    folder = tmp_path / "knocker"
    folder.mkdir()
    for name, content in (("client.yaml", text), ("phone.key", KEY)):
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    found = account(None, None, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert (str(found.where), found.key, found.warnings) == ("knock.example.com port 443", KEY, ())


def _commands() -> list[str]:
    """Every command line of ours, in a block or a sentence, without what follows it in a shell."""
    found: set[str] = set()
    for page in PAGES:
        text = page.read_text()
        blocks = "\n".join(re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
        sentences = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
        for line in [*blocks.splitlines(), *sentences]:
            said = re.match(
                r"(?:sudo |docker compose exec knocker |docker run .* --entrypoint knocker knocker:local )?(.*)", line
            )
            assert said is not None
            words = f"knocker {said[1]}" if "--entrypoint knocker" in line else said[1]
            if words.startswith("knocker ") and "..." not in words and words != "knocker check FILE":
                found.add(re.split(r"\s+#|\s+&&|\s+\||;|\s+>", words)[0].strip())
    return sorted(found)


COMMANDS = _commands()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_that_is_shown_has_these_words(line: str) -> None:
    words = shlex.split(line.replace("[", "").replace("]", ""))[1:]
    command: click.Command = main
    context = click.Context(main, info_name="knocker")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None, line
        command, context = found, click.Context(found, context, name)
    _, rest, _ = command.make_parser(context).parse_args(words)
    assert not rest


def test_there_are_commands_for_nearly_all_that_the_command_can() -> None:
    shown = {line.split()[1] for line in COMMANDS if len(line.split()) > 1}
    assert set(main.commands) - shown == set()
