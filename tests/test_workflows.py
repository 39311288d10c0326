"""GitHub's workflows name what is there, use what is known, and may do no more than they need."""

from __future__ import annotations

import configparser
import ipaddress
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from knocker import __version__
from knocker.settings import load
from tests.needs import PACKAGES, need
from tests.service import CADDY, PROJECT, SCRIPTS

GITHUB = PROJECT / ".github"
FILES = sorted((GITHUB / "workflows").iterdir())
WORKFLOWS: dict[str, Any] = {file.name: yaml.safe_load(file.read_text()) for file in FILES}
JOBS = {(file, name): job for file, workflow in WORKFLOWS.items() for name, job in workflow["jobs"].items()}
COMPOSE: Any = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SETUP = configparser.ConfigParser()
SETUP.read(PROJECT / "setup.cfg")

# Whose code the workflows run; each was looked at.
ACTIONS = {
    "actions/checkout",
    "actions/download-artifact",
    "actions/setup-python",
    "actions/upload-artifact",
    "docker/build-push-action",
    "docker/login-action",
    "docker/metadata-action",
    "docker/setup-buildx-action",
    "docker/setup-qemu-action",
    "pypa/gh-action-pypi-publish",
}

# What a job may do beyond reading the repository.
MAY = {
    ("docker-publish.yml", "image"): {"contents": "read", "packages": "write"},
    ("pypi.yml", "publish"): {"id-token": "write"},
}


def steps() -> Iterator[dict[str, Any]]:
    for job in JOBS.values():
        yield from job["steps"]


SCRIPTED = [step["run"] for step in steps() if "run" in step]
TEXT = "\n".join(SCRIPTED)
USED = [line for file in FILES for line in file.read_text().splitlines() if re.match(r"\s*(- )?uses:", line)]
each_file = pytest.mark.parametrize("file", [pytest.param(file, id=file.name) for file in FILES])
each_job = pytest.mark.parametrize("job", [pytest.param(key, id=":".join(key)) for key in JOBS])


def script(file: str, job: str, name: str) -> str:
    """What the step of that name runs."""
    (step,) = [step for step in JOBS[file, job]["steps"] if step.get("name") == name]
    return str(step["run"])


def bash(text: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub does."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
    return subprocess.run(
        command,
        cwd=directory,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def checked(*command: str) -> str:
    """The fault that one of the checkers finds."""
    done = subprocess.run(
        [str(SCRIPTS / command[0]), *command[1:]], capture_output=True, text=True, timeout=50, check=False
    )
    return done.stdout + done.stderr if done.returncode else ""


# --- Checkers --------------------------------------------------------------------------------------------------------


def test_the_workflows_are_those_that_are_known() -> None:
    assert [file.name for file in FILES] == ["ci.yml", "docker-publish.yml", "pypi.yml"]


@each_file
def test_a_workflow_follows_its_schema(file: Path) -> None:
    assert checked("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(file)) == ""


def test_dependabots_file_follows_its_schema() -> None:
    file = GITHUB / "dependabot.yml"
    assert checked("check-jsonschema", "--builtin-schema", "vendor.dependabot", str(file)) == ""
    updates: Any = yaml.safe_load(file.read_text())["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "pip"}
    assert {update["schedule"]["interval"] for update in updates} == {"weekly"}


def test_zizmor_finds_nothing() -> None:
    command = ["--offline", "--no-progress", "--strict-collection", "--persona", "auditor"]
    assert checked("zizmor", *command, *map(str, [*FILES, GITHUB / "dependabot.yml"])) == ""


def test_zizmor_looks_away_from_one_line_only() -> None:
    ignored = [line for file in FILES for line in file.read_text().splitlines() if "zizmor: ignore" in line]
    assert len(ignored) == 1
    assert "pypa/gh-action-pypi-publish@" in ignored[0]


@pytest.mark.parametrize("number", range(len(SCRIPTED)))
def test_a_script_can_be_read_by_bash_and_nothing_is_pasted_into_it(number: int) -> None:
    done = subprocess.run(["bash", "-n", "-c", SCRIPTED[number]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "${{" not in SCRIPTED[number]


# --- Actions and permissions -----------------------------------------------------------------------------------------


def test_every_action_is_known_and_used() -> None:
    assert {step["uses"].partition("@")[0] for step in steps() if "uses" in step} == ACTIONS


@pytest.mark.parametrize("line", sorted({line.strip().removeprefix("- ") for line in USED}))
def test_an_action_is_pinned_by_a_commit_and_says_its_version_or_by_a_tag_and_says_why(line: str) -> None:
    found = re.fullmatch(r"uses: [\w./-]+@(\S+) # (.+)", line)
    assert found, "no comment"
    commit, comment = found.groups()
    if re.fullmatch("[0-9a-f]{40}", commit):
        assert re.fullmatch(r"v\d+\.\d+\.\d+", comment)
    else:
        assert re.fullmatch(r"v\d+\.\d+\.\d+", commit)
        assert "by tag: " in comment


def test_an_action_is_pinned_to_one_version_everywhere() -> None:
    used = {step["uses"] for step in steps() if "uses" in step}
    assert len(used) == len(ACTIONS)


@each_file
def test_a_workflow_only_reads_unless_a_job_of_it_says_otherwise(file: Path) -> None:
    assert WORKFLOWS[file.name]["permissions"] == {"contents": "read"}
    assert "concurrency" in WORKFLOWS[file.name]
    allowed = {job: job_permissions for (name, job), job_permissions in MAY.items() if name == file.name}
    jobs: Any = WORKFLOWS[file.name]["jobs"]
    assert {name: job["permissions"] for name, job in jobs.items() if "permissions" in job} == allowed


@each_job
def test_a_job_ends_in_time_runs_on_a_named_system_and_keeps_no_credentials(job: tuple[str, str]) -> None:
    told = JOBS[job]
    assert told["runs-on"] == "ubuntu-24.04"
    assert 0 < told["timeout-minutes"] <= 150
    kept = [
        step
        for step in told["steps"]
        if step.get("uses", "").startswith("actions/checkout@") and step["with"]["persist-credentials"] is not False
    ]
    assert not kept


def test_no_secret_is_named_but_the_one_that_github_makes() -> None:
    text = "".join(file.read_text() for file in FILES)
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"GITHUB_TOKEN"}


# --- What is named is there ------------------------------------------------------------------------------------------


def test_each_target_of_make_is_there() -> None:
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"\bmake ([\w-]+)", TEXT)
    assert sorted(named) == ["lint", "test"]
    assert set(named) <= set(targets.split())


def test_what_only_tests_need_is_installed_by_the_ci() -> None:
    script = (PROJECT / ".ci/run").read_text()
    assert {name: package for name, package in PACKAGES.items() if f"{name}:{package}" not in script} == {}


def test_each_script_folder_and_file_is_there() -> None:
    folders = set(re.findall(r"(?<![\w/.-])tests/[\w/]+", TEXT))
    assert folders == {"tests/core", "tests/listen", "tests/settings", "tests/store"}
    assert [folder for folder in folders if not list((PROJECT / folder).glob("test_*.py"))] == []
    assert ".ci/run" in TEXT
    assert os.access(PROJECT / ".ci/run", os.X_OK)
    for name in ("knocker.example.yaml", "Caddyfile", "setup.cfg"):
        assert name in TEXT
        assert (PROJECT / name).is_file()


def test_the_long_suite_runs_as_the_user_that_may_make_namespaces_each_night_and_on_main() -> None:
    # PyYAML reads the word `on` as true.
    events = WORKFLOWS["ci.yml"][True]
    assert events["push"] == {"branches": ["main"]}
    assert events.keys() == {"push", "pull_request", "schedule"}
    long = JOBS["ci.yml", "long"]
    assert long["if"] == "github.event_name != 'pull_request'"
    assert [step["run"].split()[0] for step in long["steps"] if "run" in step] == ["sudo"]
    assert "long" in JOBS["ci.yml", "compose"]["needs"]


def test_the_pythons_are_those_that_setup_cfg_names_and_allows() -> None:
    tested = JOBS["ci.yml", "test"]["strategy"]["matrix"]["python"]
    classifiers = SETUP["metadata"]["classifiers"]
    named = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    allowed = SpecifierSet(SETUP["options"]["python_requires"])
    assert [version for version in tested if version not in allowed] == []
    assert set(named) <= set(tested), "each that is promised is tested"
    # The oldest that may be is tested.
    major, minor = (int(number) for number in tested[0].split("."))
    assert f"{major}.{minor - 1}" not in allowed
    others = {step["with"]["python-version"] for step in steps() if step.get("uses", "").startswith("actions/setup-p")}
    assert others - {"${{ matrix.python }}"} <= set(named)


def test_the_image_is_pushed_to_where_the_repository_is_for_the_machines_that_people_have() -> None:
    told = JOBS["docker-publish.yml", "image"]["steps"]
    (push,) = [step["with"] for step in told if step.get("with", {}).get("push")]
    assert push["platforms"] == "linux/amd64,linux/arm64"
    assert (push["provenance"], push["sbom"]) == ("mode=max", True)
    (names,) = [step for step in told if step.get("id") == "names"]
    assert names["with"]["images"] == "ghcr.io/${{ github.repository }}"


def test_what_is_published_on_pypi_has_the_names_that_setup_cfg_gives() -> None:
    name = SETUP["metadata"]["name"]
    publish = JOBS["pypi.yml", "publish"]
    assert publish["environment"] == {"name": "pypi", "url": f"https://pypi.org/project/{name}/"}
    assert f"dist/{name.replace('-', '_')}-${{GITHUB_REF_NAME#v}}.tar.gz" in TEXT
    assert "password" not in str(publish)


# --- Their scripts, run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "job"), [("docker-publish.yml", "image"), ("pypi.yml", "build")])
@pytest.mark.parametrize(
    ("tag", "good"),
    [
        pytest.param(f"v{__version__}", True, id="the version"),
        pytest.param(f"v{__version__}.1", False, id="another"),
        pytest.param(__version__, False, id="without its v"),
        pytest.param("", False, id="none"),
    ],
)
def test_a_tag_that_is_not_the_version_publishes_nothing(file: str, job: str, tag: str, good: bool) -> None:
    done = bash(script(file, job, "The tag is the version"), PROJECT, GITHUB_REF_NAME=tag)
    assert (done.returncode == 0, done.stderr) == (good, "")


def test_the_live_tests_settings_are_good_and_its_caddyfile_signs_its_own_certificates(tmp_path: Path) -> None:
    need("openssl")
    for name in ("knocker.example.yaml", "Caddyfile"):
        shutil.copy(PROJECT / name, tmp_path)
    name = "Keys of its own, and certificates that nobody else has to sign"
    done = bash(script("ci.yml", "compose", name), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    settings = load(str(tmp_path / "knocker.yaml"))
    assert settings.warnings == ()
    phone, _ = yaml.safe_load((tmp_path / "knocker.yaml").read_text())["api_keys"]
    assert phone["name"] == "phone"
    assert (tmp_path / "phone.key").read_text() == f"{phone['key']}\n"
    assert (tmp_path / ".env").read_text() == f"KNOCKER_UID={os.getuid()}\nKNOCKER_GID={os.getgid()}\n"
    file = tmp_path / "Caddyfile"
    assert file.stat().st_mode & 0o004, "Caddy, without the rights of root, reads it"
    adapted = subprocess.run(
        [CADDY, "adapt", "--adapter", "caddyfile", "--config", str(file)], capture_output=True, text=True, check=False
    )
    assert adapted.returncode == 0, adapted.stderr
    assert '"module":"internal"' in adapted.stdout


def test_the_live_test_names_what_the_compose_file_has() -> None:
    knock = script("ci.yml", "compose", "Knock")
    (network,) = re.findall(r"--network (\S+)", knock)
    assert network == f"{COMPOSE['name']}_gate"
    assert set(re.findall(r"--connect-to ::([\d.]+):", knock)) == {
        COMPOSE["services"]["caddy"]["networks"]["gate"]["ipv4_address"],
        "127.0.0.1",
    }
    (visitor,) = re.findall(r"--ip (\S+)", knock)
    pool = COMPOSE["networks"]["gate"]["ipam"]["config"][0]
    assert ipaddress.ip_address(visitor) in ipaddress.ip_network(pool["ip_range"])
    assert COMPOSE["services"]["knocker"]["image"] in knock
    assert set(re.findall(r"docker compose (?:restart|cp) (\w+)", knock)) <= COMPOSE["services"].keys()
    (words,) = re.findall(r'expect "after a knock" "(.*) 200"', knock)
    assert COMPOSE["services"]["app"]["command"][-1] == words
    hosts = re.findall(r"https://([\w.]+)/", knock)
    caddyfile = (PROJECT / "Caddyfile").read_text()
    assert len(hosts) == 2
    assert [host for host in hosts if f"\n{host} {{\n" not in caddyfile] == []
