"""The examples of several gates that share a whitelist do what they say, with a real engine, Caddies and Knockers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import yaml

from knocker.settings import Faulty, Settings, load
from tests.engine import Talk, needs_redis
from tests.needs import need
from tests.net import Answer
from tests.service import CADDY, PROJECT, SCRIPTS, Caddy, Knocker, Server, ask, eventually, free_port, replaced

CLUSTER, MANIFEST = PROJECT / "examples/cluster", PROJECT / "examples/k8s/knocker.yaml"
COMPOSE_FILE = PROJECT / "examples/compose-cluster.yml"
COMPOSE: Any = yaml.safe_load(COMPOSE_FILE.read_text())
ALONE: Any = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
OBJECTS: dict[str, Any] = {made["kind"]: made for made in yaml.safe_load_all(MANIFEST.read_text())}
POD: Any = OBJECTS["Deployment"]["spec"]["template"]["spec"]
(GATE,) = POD["containers"]
GATES = ("knocker-a", "knocker-b")
SCRIPTED = PROJECT / "knocker/store/redis"

# Each command that Knocker or one of its scripts may give, with what makes it a whole one.
COMMANDS: dict[str, list[str | int]] = {
    "DEL": ["{knocker}:x"],
    "EVALSHA": ["0" * 40, 0],
    "GET": ["{knocker}:x"],
    "HGET": ["{knocker}:state", "clock"],
    "HINCRBY": ["{knocker}:state", "changes", 1],
    "HMGET": ["{knocker}:state", "clock"],
    "HSET": ["{knocker}:state", "clock", 1],
    "INFO": [],
    "MGET": ["{knocker}:x"],
    "PING": [],
    "SCRIPT": ["LOAD", "return 1"],
    "SELECT": [1],
    "SET": ["{knocker}:x", 1, "NX", "PX", 1],
    "TIME": [],
    "WAIT": [0, 1],
    "XADD": ["{knocker}:changes", "*", "o", 1],
    "XRANGE": ["{knocker}:changes", "-", "+"],
    "XREAD": ["STREAMS", "{knocker}:changes", 0],
    "XREVRANGE": ["{knocker}:changes", "+", "-"],
    "ZADD": ["{knocker}:all", 1, "x"],
    "ZCARD": ["{knocker}:all"],
    "ZRANGE": ["{knocker}:all", 0, -1],
    "ZREM": ["{knocker}:all", "x"],
    "ZREMRANGEBYSCORE": ["{knocker}:all", 0, 1],
    "ZSCAN": ["{knocker}:all", 0],
}


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    home = {name: str(directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    return subprocess.run(
        command, cwd=directory, env=os.environ | home, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """The folder as the user has it, after the commands that the compose file begins with."""
    need("openssl")
    folder = tmp_path / "cluster"
    shutil.copytree(CLUSTER, folder, ignore=shutil.ignore_patterns("secrets"))
    first, _, _ = COMPOSE_FILE.read_text().partition("\n# Then,")
    commands = re.findall(r"^#   (.*)$", first, re.MULTILINE)
    assert len(commands) == 5
    done = run(folder, "sh", "-e", "-u", "-c", "\n".join(commands))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def own(directory: Path, files: Mapping[str, str]) -> str:
    """These files, readable by nobody else; the path of knocker.yaml."""
    for name, text in files.items():
        (directory / name).touch(mode=0o600)
        (directory / name).write_text(text)
    return str(directory / "knocker.yaml")


def shared(settings: Settings) -> tuple[str, str, int]:
    engine = settings.storage.shared
    assert engine is not None
    return engine.where, engine.user, engine.min_replicas


# --- The compose file ------------------------------------------------------------------------------------------------


def test_the_compose_file_follows_its_specification(tmp_path: Path) -> None:
    checker = str(SCRIPTS / "check-jsonschema")
    done = run(tmp_path, checker, "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("name", "like"), [(f"{what}-{gate}", what) for what in ("knocker", "caddy") for gate in "ab"])
def test_each_of_a_pair_is_as_the_one_that_stands_alone(name: str, like: str) -> None:
    ours, alone = COMPOSE["services"][name], ALONE["services"][like]
    differing = ("build", "depends_on", "networks", "ports", "volumes")
    assert {key: ours[key] for key in alone if key not in differing} == {
        key: alone[key] for key in alone if key not in differing
    }
    if "build" in alone:
        assert (COMPOSE_FILE.parent / ours["build"]).resolve() == (PROJECT / alone["build"]).resolve()


def test_only_the_gates_reach_the_engine() -> None:
    services: Any = COMPOSE["services"]
    engine = services["engine"]
    assert COMPOSE["networks"]["store"] == {"internal": True}
    assert [name for name, service in services.items() if "store" in service["networks"]] == [*GATES, "engine"]
    assert engine["networks"] == ["store"]
    assert "ports" not in engine
    for setting in ("read_only", "cap_drop", "security_opt"):
        assert engine[setting] == services["knocker-a"][setting]
    assert engine["image"].startswith("redis:7")


def test_each_gate_has_a_port_a_network_and_a_directory_of_its_own() -> None:
    services = COMPOSE["services"]
    ports = [port.partition(":")[0] for gate in "ab" for port in services[f"caddy-{gate}"]["ports"]]
    data = [volume for gate in GATES for volume in services[gate]["volumes"] if volume.endswith(":/data")]
    assert len(set(ports)) == len(set(data)) == 2
    for gate in "ab":
        (network,) = services[f"caddy-{gate}"]["networks"]
        assert services[f"knocker-{gate}"]["networks"][network]["aliases"] == ["knocker"]
        assert not services[f"knocker-{gate}"].get("ports")


def test_the_gates_trust_the_addresses_that_the_compose_file_gives_to_the_caddies() -> None:
    server: Any = yaml.safe_load((CLUSTER / "knocker.yaml").read_text())["server"]
    given = [network for gate in "ab" for network in COMPOSE["services"][f"caddy-{gate}"]["networks"].values()]
    assert server["trusted_proxies"] == [
        network[kind] for network in given for kind in ("ipv4_address", "ipv6_address")
    ]
    pools = [network["ipam"]["config"] for name, network in COMPOSE["networks"].items() if name != "store"]
    assert server["shared_addresses"] == [each["gateway"] for pool in pools for each in pool]


def test_what_is_mounted_is_there(cluster: Path) -> None:
    mounted = [volume.partition(":")[0] for service in COMPOSE["services"].values() for volume in service["volumes"]]
    files = [path for path in mounted if path.startswith(".")] + [each["file"] for each in COMPOSE["secrets"].values()]
    assert len(set(files)) == 7
    assert [path for path in files if not (cluster.parent / path).is_file()] == []
    wanted = {name for service in COMPOSE["services"].values() for name in service.get("secrets", ())}
    assert wanted == COMPOSE["secrets"].keys()


# --- Its files -------------------------------------------------------------------------------------------------------


def test_caddy_finds_the_caddyfile_valid_and_formatted(tmp_path: Path) -> None:
    file = str(CLUSTER / "Caddyfile")
    checked = run(tmp_path, CADDY, "validate", "--adapter", "caddyfile", "--config", file)
    assert checked.returncode == 0, checked.stderr
    assert run(tmp_path, CADDY, "fmt", "--diff", file).returncode == 0


def test_the_caddyfile_asks_as_the_one_that_stands_alone_does() -> None:
    ours, alone = (
        "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#"))
        for file in (CLUSTER / "Caddyfile", PROJECT / "Caddyfile")
    )
    page = 'respond "Only those who knocked see this. This is gate {$GATE}."'
    names = {f"\n{name}.example.com {{": f"\nhttp://{name}.example.com {{" for name in ("knock", "app")}
    assert replaced(alone, {**names, "reverse_proxy app:80": page}) == ours


def test_the_settings_of_the_gates_are_good_once_their_secrets_are_there(cluster: Path) -> None:
    text = (CLUSTER / "knocker.yaml").read_text()
    config = own(cluster, {"knocker.yaml": replaced(text, {"/run/secrets/": f"{cluster}/secrets/"})})
    settings = load(config)
    # Below /run/secrets nothing is said of those: that their folder is closed to others cannot be seen from inside.
    assert all("/secrets/" in warning and "0600" in warning for warning in settings.warnings)
    assert (cluster / "secrets").stat().st_mode & 0o777 == 0o700
    assert [key.admin for key in settings.keys] == [False, True]
    assert shared(settings) == ("redis://engine:6379/0?prefix=knocker", "knocker", 0)
    named = set(re.findall(r"/run/secrets/(\S+)", text))
    assert {name for gate in GATES for name in COMPOSE["services"][gate]["secrets"]} == named


def test_the_settings_of_the_gates_are_refused_without_secrets_and_with_easy_ones(tmp_path: Path) -> None:
    text = replaced((CLUSTER / "knocker.yaml").read_text(), {"/run/secrets/": f"{tmp_path}/"})
    faulty = ["api_keys[0].key_file", "api_keys[1].key_file", "whitelist.password_file"]
    for secrets in ({}, {"phone": "CHANGE_ME to a key", "admin": "REPLACE_WITH_ANOTHER_KEY", "redis": ""}):
        with pytest.raises(Faulty) as refused:
            load(own(tmp_path, {"knocker.yaml": text, **secrets}))
        assert sorted(fault.split(": ")[1] for fault in refused.value.faults) == faulty


# --- The engine ------------------------------------------------------------------------------------------------------


def engine(cluster: Path, *users: str) -> Server:
    """The example's engine, on this machine alone; `users`: more lines for those that it knows."""
    data, port = cluster / "engine", free_port()
    data.mkdir()
    exchange = {
        "\nport 6379\n": f"\nport {port}\n",
        "\nbind * -::*\n": "\nbind 127.0.0.1\n",
        "/run/secrets/users.acl": f"{cluster}/secrets/users.acl",
        "\ndir /data\n": f"\ndir {data}\n",
    }
    config = data / "redis.conf"
    config.write_text(replaced((CLUSTER / "redis.conf").read_text(), exchange))
    return Server(["redis-server", str(config)], data, port)


def password(cluster: Path) -> str:
    return (cluster / "secrets/redis").read_text().strip()


def given_commands() -> set[str]:
    """The commands in Knocker's own text, without AUTH, which everybody may give."""
    python = "".join(file.read_text() for file in SCRIPTED.glob("*.py"))
    lua = "".join(file.read_text() for file in (SCRIPTED / "scripts").glob("*.lua"))
    found = set(re.findall(r"""\(\s*"([A-Z]{3,})"\s*[,)]""", python)) | set(re.findall(r"redis\.p?call\('(\w+)'", lua))
    return found - {"AUTH"}


def test_knocker_may_give_those_commands_that_it_does_and_no_others() -> None:
    assert given_commands() == COMMANDS.keys()
    (line,) = re.findall(r"^user knocker (.*)$", (CLUSTER / "users.acl").read_text(), re.MULTILINE)
    *first, everything = re.split(r" (?=\+)", line, maxsplit=1)
    assert first == ["on #PASSWORD_SHA256 resetchannels ~{knocker}:* -@all"]
    assert sorted(everything.split()) == sorted(
        "+script|load" if name == "SCRIPT" else f"+{name.lower()}" for name in COMMANDS
    )


@needs_redis
def test_the_engine_does_what_knocker_asks_for_and_nothing_else(cluster: Path) -> None:
    with engine(cluster) as running:
        talk = Talk(running.port, ("AUTH", "knocker", password(cluster)))
        for name, rest in COMMANDS.items():
            if name != "EVALSHA":
                talk.ask(name, *rest)
        with pytest.raises(ValueError, match=r"^NOSCRIPT "):
            talk.ask("EVALSHA", *COMMANDS["EVALSHA"])
        refused: list[tuple[str | int, ...]] = [
            ("FLUSHALL",),
            ("KEYS", "*"),
            ("CONFIG", "GET", "*"),
            ("ACL", "LIST"),
            ("EVAL", "return 1", 0),
            ("SCRIPT", "FLUSH"),
            ("CLIENT", "LIST"),
            ("REPLICAOF", "NO", "ONE"),
            ("SHUTDOWN",),
            ("PUBLISH", "x", "y"),
            ("EXPIRE", "{knocker}:x", 1),
            ("GET", "{other}:x"),
            ("SET", "knocker:x", 1),
            ("MGET", "{knocker}:x", "x"),
        ]
        for command in refused:
            with pytest.raises(ValueError, match=r"^NOPERM "):
                talk.ask(*command)
        talk.close()


@needs_redis
def test_nobody_else_may_do_anything_but_see_that_the_engine_lives(cluster: Path) -> None:
    with engine(cluster) as running:
        stranger = Talk(running.port)
        with pytest.raises(ValueError, match=r"^NOAUTH "):
            stranger.ask("PING")
        for wrong in (("knocker", "PASSWORD_SHA256"), ("knocker", ""), ("default", "")):
            with pytest.raises(ValueError, match=r"^WRONGPASS "):
                stranger.ask("AUTH", *wrong)
        assert stranger.ask("AUTH", "health", "none") == "OK"
        assert stranger.ask("PING") == "PONG"
        for command in (("INFO",), ("GET", "{knocker}:x")):
            with pytest.raises(ValueError, match=r"^NOPERM "):
                stranger.ask(*command)
        stranger.close()
    assert "--user health " in COMPOSE["services"]["engine"]["healthcheck"]["test"][1]


@needs_redis
def test_the_engine_does_not_start_until_the_placeholder_is_replaced(cluster: Path) -> None:
    users = [line for line in (CLUSTER / "users.acl").read_text().splitlines() if not line.startswith("#")]
    (cluster / "secrets/users.acl").write_text("\n".join(users))
    with pytest.raises(AssertionError, match=r"it ended with 1:(?s:.*) The password hash must be "), engine(cluster):
        pytest.fail("it started")


# --- All of it -------------------------------------------------------------------------------------------------------


class Pair:
    """A Caddy and its Knocker, as in the example but for addresses; clients come from other addresses of loopback."""

    def __init__(self, cluster: Path, name: str, engine_port: int) -> None:
        self.port = free_port()
        folders = [cluster / f"{what}-{name}" for what in ("knocker", "caddy")]
        for folder in folders:
            folder.mkdir()
        self.knocker = Knocker(folders[0], {}, free_port())
        self.knocker.write(self._settings(cluster, engine_port))
        exchange = {f"{host}.example.com {{": f"{host}.example.com:{self.port} {{" for host in ("knock", "app")}
        exchange["knocker:8000"] = f"127.0.0.1:{self.knocker.port}"
        self.caddy = Caddy(folders[1], replaced((CLUSTER / "Caddyfile").read_text(), exchange), self.port)
        self.caddy.environment["GATE"] = COMPOSE["services"][f"caddy-{name}"]["environment"]["GATE"]

    def _settings(self, cluster: Path, engine_port: int) -> str:
        text = (CLUSTER / "knocker.yaml").read_text()
        (proxies,) = re.findall(r"trusted_proxies: (.*)", text)
        exchange = {
            '"::"': '"127.0.0.1"',
            "port: 8000": f"port: {self.knocker.port}\n  allow_loopback_clients: true",
            proxies: '["127.0.0.1"]',
            "@engine:6379/": f"@127.0.0.1:{engine_port}/",
            "/run/secrets/": f"{cluster}/secrets/",
        }
        return replaced(text, exchange)

    def ask(self, client: str, host: str, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10, source_address=(client, 0))
        try:
            connection.request(method, path, headers={"Host": f"{host}.example.com", **headers})
            answer = connection.getresponse()
            return Answer(answer.status, tuple(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def lets_in(self, client: str) -> bool:
        answer = self.ask(client, "app")
        assert answer.status in (200, 401), answer
        return answer.status == 200

    def is_ready(self) -> bool:
        return ask(self.knocker.port, "/ready").status == 200


@needs_redis
def test_who_knocks_at_one_gate_is_let_in_at_both_until_he_leaves_at_the_other(cluster: Path) -> None:
    key = (cluster / "secrets/phone").read_text().strip()
    with ExitStack() as stack:
        running = stack.enter_context(engine(cluster))
        a, b = pairs = [Pair(cluster, name, running.port) for name in "ab"]
        for pair in pairs:
            stack.callback(pair.knocker.end, key, password(cluster))
            stack.enter_context(pair.knocker)
            stack.enter_context(pair.caddy)
        home, elsewhere, third = "127.0.0.2", "127.0.0.3", "127.0.0.4"
        for pair in pairs:
            eventually(pair.is_ready, "it is in step with the engine")
            assert not pair.lets_in(home)

        assert a.ask(home, "knock", "/knock", **{"X-Api-Key": key}).status == 200
        eventually(lambda: b.lets_in(home), "b knows of the knock at a")
        assert b"This is gate b." in b.ask(home, "app").body
        assert b"This is gate a." in a.ask(home, "app").body
        assert not a.lets_in(elsewhere) | b.lets_in(elsewhere)

        # What was answered is on the engine's disk, and who was let in is while it is away.
        running.kill()
        eventually(lambda: not a.is_ready() and not b.is_ready(), "the gates know that the engine is away")
        assert a.lets_in(home)
        assert b.lets_in(home)
        assert b.ask(elsewhere, "knock", "/knock", **{"X-Api-Key": key}).status == 503
        b.knocker.kill()
        running.start()
        b.knocker.start()
        for pair in pairs:
            eventually(pair.is_ready, "it is in step again")
        assert b.lets_in(home)
        assert "CRITICAL" not in running.log

        assert b.ask(third, "knock", "/knock", **{"X-Api-Key": key}).status == 200
        eventually(lambda: a.lets_in(third), "a knows of the knock at b")
        assert b.ask(home, "knock", "/knock", "DELETE", **{"X-Api-Key": key}).status == 204
        eventually(lambda: not a.lets_in(home), "a knows who left at b")
        assert a.lets_in(third)


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def test_the_manifest_is_one_that_kubernetes_takes(tmp_path: Path) -> None:
    checker = str(SCRIPTS / "kubernetes-validate")
    done = run(tmp_path, checker, "--strict", str(MANIFEST))
    assert done.returncode == 0, done.stdout
    # What it has no schema for is no error to it.
    assert done.stdout.count(" passed for resource ") == len(OBJECTS) == 6, done.stdout


def test_the_objects_of_the_manifest_find_each_other() -> None:
    labels = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    spread = [each["labelSelector"]["matchLabels"] for each in POD["topologySpreadConstraints"]]
    specs = {kind: OBJECTS[kind]["spec"] for kind in OBJECTS if "spec" in OBJECTS[kind]}
    found = [specs[kind]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")]
    found += [specs["Service"]["selector"], specs["NetworkPolicy"]["podSelector"]["matchLabels"], *spread]
    assert found == [labels] * 6
    names = {port["name"]: port["containerPort"] for port in GATE["ports"]}
    assert names[specs["Service"]["ports"][0]["targetPort"]] == 8000
    assert {names[rule["port"]] for each in specs["NetworkPolicy"]["ingress"] for rule in each["ports"]} == {8000}
    assert len(specs["NetworkPolicy"]["ingress"]) == 1
    settings: Any = yaml.safe_load(OBJECTS["ConfigMap"]["data"]["knocker.yaml"])
    assert settings["server"]["port"] == 8000
    assert "@redis:6379/" in settings["whitelist"]["store"]


def test_a_pod_of_the_manifest_is_hardened_and_has_what_knocker_needs() -> None:
    pod, gate = POD["securityContext"], GATE["securityContext"]
    assert pod["runAsNonRoot"]
    assert f"USER {pod['runAsUser']}:{pod['runAsGroup']}" in (PROJECT / "Dockerfile").read_text().splitlines()
    assert (gate["readOnlyRootFilesystem"], gate["allowPrivilegeEscalation"]) == (True, False)
    assert gate["capabilities"] == {"drop": ["ALL"]}
    assert GATE["image"] == ALONE["services"]["knocker"]["image"]
    probes = [GATE[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert [(probe["path"], probe["port"]) for probe in probes] == [
        ("/health", "http"),
        ("/health", "http"),
        ("/ready", "http"),
    ]
    mounts = {mount["name"]: mount["mountPath"] for mount in GATE["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert "emptyDir" in volumes["data"]
    assert GATE["workingDir"] == mounts["data"]
    named = [OBJECTS[kind]["metadata"]["name"] for kind in ("ConfigMap", "Secret")]
    assert [each["name"] for source in volumes["settings"]["projected"]["sources"] for each in source.values()] == named
    assert GATE["env"] == [{"name": "KNOCKER_CONFIG_PATH", "value": f"{mounts['settings']}/knocker.yaml"}]
    assert mounts["settings"].startswith("/run/secrets/")  # elsewhere Knocker warns that the group can read it


def test_the_settings_of_the_manifest_are_refused_until_each_secret_is_changed(tmp_path: Path) -> None:
    secrets = dict(OBJECTS["Secret"]["stringData"])
    places = {"admin": "api_keys[1].key_file", "phone": "api_keys[0].key_file", "redis": "whitelist.password_file"}
    assert secrets.keys() == places.keys()
    config = own(tmp_path, OBJECTS["ConfigMap"]["data"])
    for name in places:
        with pytest.raises(Faulty) as refused:
            load(own(tmp_path, secrets))
        left = [place for other, place in places.items() if "CHANGE_ME" in secrets[other]]
        assert sorted(fault.split(": ")[1] for fault in refused.value.faults) == sorted(left)
        secrets[name] = f"a-secret-of-my-own-for-{name}\n"
    own(tmp_path, secrets)
    settings = load(config)
    assert settings.warnings == ()
    assert [key.admin for key in settings.keys] == [False, True]
    assert shared(settings) == ("redis://redis:6379/0?prefix=knocker", "knocker", 0)


def test_a_probe_is_answered_by_a_gate_that_believes_the_kubelet_and_has_a_knock_page_with_a_name(
    tmp_path: Path,
) -> None:
    readiness = GATE["readinessProbe"]["httpGet"]
    (host,) = [each["value"] for each in readiness["httpHeaders"] if each["name"] == "Host"]
    settings = {
        "server": {"trusted_proxies": ["127.0.0.1"]},
        "api_keys": [{"name": "phone", "key": "phone-key-0123456789-abc", "ttl": 60}],
        "knock_page": {"url": f"https://{host}"},
    }
    with Knocker(tmp_path, settings, free_port()) as gate:
        assert ask(gate.port, readiness["path"], headers={"Host": host}).status == 200
        assert ask(gate.port, GATE["livenessProbe"]["httpGet"]["path"]).status == 200
