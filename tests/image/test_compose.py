"""docker-compose.yml, Caddyfile and knocker.example.yaml as users copy them, with a real Caddy and real addresses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.image.containers import Containers
from tests.image.stack import ADMIN, CADDY, KNOCKER, Stack
from tests.net import SERVER, SERVER_6, Bench
from tests.service import PROJECT, SCRIPTS, eventually, replaced

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stack(containers: Containers, bench: Bench, image: str, caddy: str) -> Iterator[Stack]:
    """The one that all tests here share; each knocks from addresses of its own."""
    with Stack(containers, bench) as running:
        yield running


def test_knocker_runs_as_the_files_owner_with_nothing_that_it_does_not_need(stack: Stack) -> None:
    told: Any = json.loads(stack.containers.said("inspect", KNOCKER))[0]
    assert told["Config"]["User"] == "1000:1000"
    assert told["HostConfig"]["ReadonlyRootfs"]
    assert not told["EffectiveCaps"]
    assert "no-new-privileges" in str(told["HostConfig"]["SecurityOpt"])
    assert told["Config"]["Healthcheck"]["Test"][-2:] == ["knocker", "health"]
    stack.containers.podman("healthcheck", "run", KNOCKER)
    start, _, _ = stack.log.partition("listening on :: port 8000")
    warnings = [line for line in start.splitlines() if "#warn" in line or "#error" in line]
    assert all("udp-seen.log: there is no such file" in line for line in warnings), warnings


@pytest.mark.parametrize("family", [4, 6])
def test_whoever_knocks_is_let_in_by_the_own_address(stack: Stack, bench: Bench, family: int) -> None:
    client, other = (bench.stranger() if family == 4 else bench.stranger_6() for _ in range(2))
    assert stack.app(client) == 401
    answer = stack.knock(client)
    assert answer.status == 200
    opened = client if family == 4 else f"{client.removesuffix('10')}/64"
    assert answer.json()["whitelisted_entry"] == opened
    assert stack.app(client) == 200
    assert stack.app(other) == 401
    grants = stack.curl("https://knock.example.com/grants", other, "-H", f"X-Api-Key: {ADMIN}").json()
    assert opened in str(grants), "a key from a secret"
    assert stack.knock(client, "-X", "DELETE").status == 204
    assert stack.app(client) == 401


@pytest.mark.parametrize("server", [SERVER, f"[{SERVER_6}]"], ids=["IPv4", "IPv6"])
def test_a_datagram_opens_for_its_sender(stack: Stack, bench: Bench, server: str) -> None:
    command = [*bench.client, str(SCRIPTS / "knocker"), "knock", "--udp", f"{server}:62201"]
    environment = os.environ | {"KNOCKER_KEY": stack.key, "HOME": str(stack.folder)}
    before = stack.log.count("via udp")

    def opened_by_one_more() -> bool:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        time.sleep(1)  # nothing answers
        return stack.log.count("via udp") > before

    eventually(opened_by_one_more, "a grant", seconds=50)
    *_, line = (line for line in stack.log.splitlines() if "via udp" in line)
    (opened,) = re.findall(r"opened (\S+)", line)
    assert stack.app(opened if "/" not in opened else f"{opened.removesuffix('/64')}10") == 200


def test_an_address_that_many_share_is_not_opened(stack: Stack, bench: Bench) -> None:
    """What comes from the machine itself wears the gateway's address, as all would behind Docker's userland-proxy."""
    url = "https://knock.example.com/knock"
    command = [*bench.server, "curl", "-sk", "--connect-to", "::127.0.0.1:", "-H", f"X-Api-Key: {stack.key}", url]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert json.loads(answer) == {"error": "Could not determine client IP."}
    assert "172.30.53.1" in stack.log
    assert "server.shared_addresses" in stack.log


def test_the_docs_commands_beside_it_work_while_it_runs(stack: Stack) -> None:
    pages = "".join((PROJECT / "docs" / page).read_text() for page in ("docker.md", "operations.md"))
    commands = re.findall(r"^docker run --rm (.*?)(?:  +#.*)?$", pages, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        mounts = f"--volume={stack.folder}/admin.key:/run/secrets/admin:ro"
        shell = f"cd {stack.folder} && podman run --rm {mounts} {command.replace('$(id -u):$(id -g)', '1000:1000')}"
        done = stack.containers.run("sh", "-c", shell, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert ("key: kn_" if "genkey" in command else "is fine: 2 keys") in done.stdout


def test_settings_count_after_a_reload_or_a_restart_and_no_grant_is_lost(stack: Stack, bench: Bench) -> None:
    client = bench.stranger()
    assert stack.knock(client).status == 200

    # An editor that writes into the file.
    text = stack.settings.read_text()
    stack.settings.write_text(replaced(text, {"ttl: 3600                   #": "ttl: 1800 #"}))
    stack.compose("exec", "-T", "knocker", "knocker", "reload")
    eventually(lambda: stack.given(bench.stranger()) == 1800, "reloaded")

    # And one that puts another file in its place, of which the container knows nothing until it starts again.
    new = stack.settings.with_suffix(".new")
    shutil.copy2(stack.settings, new)
    os.chown(new, 1000, 1000)
    new.write_text(replaced(new.read_text(), {"ttl: 1800 #": "ttl: 900 #"}))
    new.replace(stack.settings)
    warning = "another file has taken its place, but the old one is what is still seen here: restart the container"
    told = stack.containers.podman("exec", KNOCKER, "knocker", "reload")
    assert warning in told.stdout + told.stderr
    eventually(lambda: warning in stack.log, "said in the log too")
    assert stack.given(bench.stranger()) == 1800

    stack.compose("restart", "knocker")
    # podman gives it a new hardware address, and with it the bridge, which the others have to find out.
    eventually(stack.ready, "restarted", seconds=120)
    assert stack.given(bench.stranger()) == 900
    assert stack.app(client) == 200


def test_the_stack_has_the_addresses_that_the_settings_believe(stack: Stack) -> None:
    told: Any = json.loads(stack.containers.said("network", "inspect", "knocker_gate"))[0]
    settings: Any = yaml.safe_load((PROJECT / "knocker.example.yaml").read_text())["server"]
    assert [subnet["gateway"] for subnet in told["subnets"]] == settings["shared_addresses"]
    networks: Any = json.loads(stack.containers.said("inspect", CADDY))[0]["NetworkSettings"]["Networks"]
    (network,) = networks.values()
    assert [network["IPAddress"], network["GlobalIPv6Address"]] == settings["trusted_proxies"]
