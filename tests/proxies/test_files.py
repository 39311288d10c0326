"""The files that users copy are good as they stand: Caddyfiles, the compose file, the example settings."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from knocker.settings import Faulty, load
from tests.proxies.recipes import FIRST_RECIPE, FOLDER
from tests.service import CADDY, PROJECT, SCRIPTS, replaced


def _run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    home = {name: str(directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    return subprocess.run(
        command,
        cwd=directory,
        env=os.environ | home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


MIGRATION = PROJECT / "docs/migration.md"
OURS = [PROJECT / "Caddyfile", FOLDER / "Caddyfile"]


@pytest.mark.parametrize(
    "text", [*(file.read_text() for file in OURS), FIRST_RECIPE], ids=["for docker", "for one machine", "first"]
)
def test_caddy_finds_the_caddyfile_valid(tmp_path: Path, text: str) -> None:
    file = tmp_path / "Caddyfile"
    file.write_text(text)
    ended = _run(tmp_path, CADDY, "validate", "--adapter", "caddyfile", "--config", str(file))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("file", OURS, ids=["for docker", "for one machine"])
def test_our_caddyfile_is_formatted_as_caddy_would(tmp_path: Path, file: Path) -> None:
    ended = _run(tmp_path, CADDY, "fmt", "--diff", str(file))
    assert ended.returncode == 0, ended.stdout


def test_a_login_behind_knocker_is_asked_only_for_those_who_knocked(tmp_path: Path) -> None:
    """As docs/migration.md has it: in the order of the file."""
    (site,) = re.findall(r"^```\n(app\.example\.com \{.*?^\})\n```", MIGRATION.read_text(), re.MULTILINE | re.DOTALL)
    file = tmp_path / "Caddyfile"
    file.write_text(re.sub(r"(?ms)^app\.example\.com \{.*?^\}", site, (PROJECT / "Caddyfile").read_text()))
    ended = _run(tmp_path, CADDY, "adapt", "--config", str(file))
    assert ended.returncode == 0, ended.stderr
    asked = re.findall(r'"dial":"([^"]*)"', ended.stdout)
    assert asked == ["knocker:8000", "knocker:8000", "tinyauth:3000", "app:80"]  # the knock host's own is the first


def test_our_caddyfiles_differ_in_addresses_alone() -> None:
    docker, machine = (file.read_text().partition("\n")[2] for file in OURS)
    assert replaced(docker, {"knocker:8000": "127.0.0.1:8000", "app:80\n": "127.0.0.1:8096\n"}) == machine


def test_the_page_about_proxies_names_each_recipe() -> None:
    page = (FOLDER / "README.md").read_text()
    for file in FOLDER.iterdir():
        assert file.name == "README.md" or f"]({file.name})" in page, file.name


def test_the_compose_file_follows_its_specification(tmp_path: Path) -> None:
    checker = str(SCRIPTS / "check-jsonschema")
    file = PROJECT / "docker-compose.yml"
    ended = _run(tmp_path, checker, "--builtin-schema", "vendor.compose-spec", str(file))
    assert ended.returncode == 0, ended.stdout


def test_nobody_has_anything_to_say_about_the_dockerfile(tmp_path: Path) -> None:
    ended = _run(tmp_path, str(SCRIPTS / "hadolint"), str(PROJECT / "Dockerfile"))
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stdout


def _copied(directory: Path, text: str) -> str:
    file = directory / "knocker.yaml"
    file.touch(mode=0o600)
    file.write_text(text)
    return str(file)


def test_the_example_settings_are_refused_until_each_key_is_changed(tmp_path: Path) -> None:
    text = (PROJECT / "knocker.example.yaml").read_text()
    placeholders = re.findall(r'^ +key: "(.*)"', text, re.MULTILINE)
    assert len(placeholders) >= 2
    for number, placeholder in enumerate(placeholders):
        with pytest.raises(Faulty) as refused:
            load(_copied(tmp_path, text))
        assert len(refused.value.faults) == len(placeholders) - number
        assert all(re.search(r": api_keys\[\d\]\.key: ", fault) for fault in refused.value.faults)
        text = text.replace(f'"{placeholder}"', f'"a-key-of-my-own-{number}-0123456789"')
    settings = load(_copied(tmp_path, text))
    assert settings.warnings == ()
    assert [key.admin for key in settings.keys] == [False, True]
    assert [key.ipv6_prefix for key in settings.keys] == [64, 64]


def test_the_example_settings_trust_the_addresses_that_the_compose_file_gives_to_caddy(tmp_path: Path) -> None:
    compose = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
    example = yaml.safe_load((PROJECT / "knocker.example.yaml").read_text())
    (caddy,) = compose["services"]["caddy"]["networks"].values()
    assert example["server"]["trusted_proxies"] == [caddy["ipv4_address"], caddy["ipv6_address"]]
    (network,) = compose["networks"].values()
    gateways = [config["gateway"] for config in network["ipam"]["config"]]
    assert example["server"]["shared_addresses"] == gateways
