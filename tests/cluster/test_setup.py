"""Engines that are not as they should be: each fault is told in words that mend it, and opens or loses nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.fleet import PHONE, SETTINGS, ready
from tests.engine import Redis, Talk, gate, needs_redis
from tests.service import PROJECT, Knocker, eventually

pytestmark = needs_redis
HERE, THERE = "203.0.113.1", "203.0.113.2"
PASSWORD = "the-engines-pass-word"
# As docs/cluster.md has it.
ACL = (
    "~{knocker}:* resetchannels -@all +auth +select +ping +info +script|load +evalsha +time +wait"
    " +get +set +del +mget +hget +hset +hmget +hincrby"
    " +xadd +xread +xrange +xrevrange +zadd +zrem +zcard +zrange +zscan +zremrangebyscore"
)

Start = Callable[..., Knocker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Launches a gate for a store, with these words in whitelist beside it, and files beside its settings."""
    running: list[Knocker] = []

    def launched(store: str, files: dict[str, str] | None = None, **whitelist: Any) -> Knocker:
        folder = tmp_path / f"gate{len(running)}"
        folder.mkdir()
        for name, text in (files or {}).items():
            (folder / name).touch(0o600)
            (folder / name).write_text(text)
        one = gate(folder, store, {**SETTINGS, "whitelist": whitelist})
        running.append(one)
        one.launch()
        return one

    yield launched
    for one in running:
        one.end(PASSWORD)


def refused(one: Knocker) -> str:
    """What a gate says whose start ends, with status 1 and one line for the fault."""
    assert one.wait(15) == 1
    (fault,) = [line for line in one.log.splitlines() if line.startswith("the store ")]
    return fault


def in_step(one: Knocker) -> None:
    eventually(lambda: one.listening and ready(one) == [], "the gate is in step", 15)


def users(engine: Redis, rules: str = ACL) -> None:
    """Let the engine know a user of that name, and nobody without one."""
    engine.ask("ACL", "SETUSER", "knocker", "on", f">{PASSWORD}", *rules.split())
    engine.ask("ACL", "SETUSER", "default", "off")


def test_a_user_who_may_only_what_the_docs_say_is_enough(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "engine") as engine:
        users(engine)
        one = start(
            engine.store.replace("redis://", "redis://knocker@") + "/0?prefix=knocker",
            {"password": PASSWORD + "\n"},
            password_file="password",
        )
        in_step(one)
        assert one.knock(HERE, PHONE).status == 200
        assert one.verify(HERE) == 200
        assert one.knock(HERE, PHONE, "DELETE").status == 204
        assert PASSWORD not in one.log


@pytest.mark.parametrize("password", [None, "a-wrong-pass-word"], ids=["none", "a wrong one"])
def test_a_wrong_password_ends_the_start(password: str | None, tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "engine") as engine:
        users(engine)
        named = {} if password is None else {"files": {"p": password}, "password_file": "p"}
        one = start(engine.store.replace("redis://", "redis://knocker@" if password else "redis://"), **named)
        fault = refused(one)
        assert "whitelist.password_file" in fault
        assert "a-wrong-pass-word" not in one.log


def test_a_user_who_may_too_little_ends_the_start(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "engine") as engine:
        users(engine, ACL.replace(" +xadd", "").replace("+hset ", ""))
        store = engine.store.replace("redis://", "redis://knocker@")
        assert "docs/cluster.md has the line for its ACL" in refused(start(store, {"p": PASSWORD}, password_file="p"))


def test_an_engine_that_evicts_keys_ends_the_start(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "engine", "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru") as engine:
        fault = refused(start(engine.store))
        assert "maxmemory-policy is volatile-lru: set it to noeviction" in fault


def test_one_that_would_with_a_limit_is_warned_of(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "engine", "--maxmemory-policy", "allkeys-lru") as engine:
        one = start(engine.store)
        in_step(one)
        assert "would drop grants once it has a maxmemory" in one.log
        assert "set its appendonly to yes" in one.log


def test_a_full_memory_refuses_knocks_in_words_and_goes_on_to_close(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "engine") as engine:
        one = start(engine.store)
        in_step(one)
        assert one.knock(HERE, PHONE).status == 200
        engine.ask("CONFIG", "SET", "maxmemory", 1)
        refusal = one.knock(THERE, PHONE)
        assert (refusal.status, refusal.json()["error"]) == (503, "The whitelist could not be stored.")
        assert "has no memory left: raise its maxmemory" in one.log
        eventually(lambda: "has no memory left" in str(ready(one)), "it says so")
        assert (one.verify(HERE), one.verify(THERE)) == (200, 401)
        engine.ask("CONFIG", "SET", "maxmemory", 0)
        eventually(lambda: one.knock(THERE, PHONE).status == 200, "knocks count again", 15)
        eventually(lambda: ready(one) == [], "and that is over")


def test_closes_that_the_engine_does_not_take_are_told_until_it_does(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "engine") as engine:
        one, other = start(engine.store), start(engine.store)
        in_step(one)
        in_step(other)
        assert one.knock(HERE, PHONE).status == 200
        eventually(lambda: other.verify(HERE) == 200, "the other knows")
        engine.ask("CONFIG", "SET", "min-replicas-to-write", 1)
        assert one.knock(THERE, PHONE).status == 503
        closed = one.knock(HERE, PHONE, "DELETE")
        assert (closed.status, closed.json()["error"]) == (503, "Closed, but not stored.")
        assert one.verify(HERE) == 401
        assert any("closed at this gate alone" in reason for reason in ready(one))
        eventually(lambda: "fewer replicas than its own min-replicas-to-write" in str(ready(other)), "both say why")
        engine.ask("CONFIG", "SET", "min-replicas-to-write", 0)
        eventually(lambda: other.verify(HERE) == 401, "the other is told as soon as the engine takes it")
        eventually(lambda: (ready(one), ready(other)) == ([], []), "and that is over")
        assert other.knock(HERE, PHONE).status == 200
        eventually(lambda: one.verify(HERE) == 200, "a later knock counts at both")


def test_an_engine_with_too_many_clients_is_no_wrong_password(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "engine", "--maxclients", "3") as engine:
        users(engine)
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(closing(Talk(engine.port)))
            one = start(engine.store.replace("redis://", "redis://knocker@"), {"p": PASSWORD}, password_file="p")
            eventually(lambda: one.listening, "it listens all the same", 15)
            assert "maxclients" in str(ready(one))
        in_step(one)


def test_a_replica_is_no_primary(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "primary") as primary, Redis(tmp_path / "replica") as replica:
        replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        one = start(replica.store)
        eventually(lambda: one.listening, "it listens all the same", 15)
        assert "is a read-only replica: name the primary in whitelist.store" in ready(one)[0]
        assert one.knock(HERE, PHONE).status == 503
        replica.ask("REPLICAOF", "NO", "ONE")
        in_step(one)
        assert one.knock(HERE, PHONE).status == 200
        replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        assert one.knock(THERE, PHONE).status == 503
        assert one.verify(HERE) == 200


def test_a_knock_waits_for_as_many_replicas_as_it_shall(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "primary") as primary, Redis(tmp_path / "replica") as replica:
        one = start(primary.store, min_replicas=1)
        eventually(lambda: one.listening, "it listens", 15)
        eventually(lambda: "has 0 replicas, and whitelist.min_replicas wants 1" in str(ready(one)), "it wants one")
        assert one.knock(HERE, PHONE).status == 503
        replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        in_step(one)
        assert one.knock(HERE, PHONE).status == 200
        assert replica.ask("KEYS", "*grant*") == [f'{{knocker}}:grant:["phone","{HERE}",null]'], "it has it by then"


def test_a_grant_that_too_few_replicas_have_in_time_counts_for_nothing(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "primary") as primary, Redis(tmp_path / "replica") as replica:
        replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        one = start(primary.store, min_replicas=1)
        in_step(one)
        assert one.knock(HERE, PHONE).status == 200
        replica.signal(signal.SIGSTOP)
        try:
            assert one.knock(THERE, PHONE).status == 503
            assert "has it in 0 replicas, and whitelist.min_replicas wants 1" in one.log
            assert one.verify(HERE) == 200
            eventually(lambda: one.verify(THERE) == 401, "it is closed again")
        finally:
            replica.signal(signal.SIGCONT)
        eventually(lambda: one.knock(THERE, PHONE).status == 200, "knocks count again", 15)


def _certificates(folder: Path) -> None:
    """A certificate authority, and certificates of it for the engine and for a gate; another authority beside."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for name in ("ca", "other"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    for name in ("engine", "gate"):
        alternative = "subjectAltName=IP:127.0.0.1,DNS:localhost"
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", alternative]
        openssl(*new, "-subj", f"/CN={name}", *signed, "-keyout", f"{name}.key", "-out", f"{name}.crt")
    (folder / "gate.pem").write_text((folder / "gate.crt").read_text() + (folder / "gate.key").read_text())


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[Redis, dict[str, str]]]:
    """An engine that speaks TLS alone and wants certificates, and the files for a gate."""
    folder = tmp_path / "engine"
    folder.mkdir()
    _certificates(folder)
    engine = Redis(folder)
    engine.command += ["--port", "0", "--tls-port", str(engine.port), "--tls-ca-cert-file", str(folder / "ca.pem")]
    engine.command += ["--tls-cert-file", str(folder / "engine.crt"), "--tls-key-file", str(folder / "engine.key")]
    with engine:
        yield engine, {name: (folder / name).read_text() for name in ("ca.pem", "other.pem", "gate.pem")}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_it_speaks_tls_with_certificates_on_both_sides(
    host: str, tls: tuple[Redis, dict[str, str]], start: Start
) -> None:
    engine, files = tls
    store = f"rediss://{host}:{engine.port}"
    one = start(store, files, tls_ca_file="ca.pem", tls_cert_file="gate.pem")
    in_step(one)
    assert one.knock(HERE, PHONE).status == 200
    assert one.verify(HERE) == 200


@pytest.mark.parametrize(
    "whitelist",
    [
        pytest.param({"tls_ca_file": "other.pem", "tls_cert_file": "gate.pem"}, id="another authority"),
        pytest.param({"tls_cert_file": "gate.pem"}, id="the system's authorities"),
        pytest.param({"tls_ca_file": "ca.pem"}, id="no certificate of ours"),
    ],
)
def test_a_disagreement_on_tls_is_told_as_one(
    whitelist: dict[str, str], tls: tuple[Redis, dict[str, str]], start: Start
) -> None:
    engine, files = tls
    one = start(engine.store.replace("redis", "rediss"), files, **whitelist)
    eventually(lambda: one.listening, "it listens", 15)
    assert "do not agree on TLS: see whitelist.tls_ca_file and tls_cert_file" in ready(one)[0]


@pytest.mark.parametrize("name", ["tls_ca_file", "tls_cert_file"])
def test_files_that_hold_no_certificates_end_the_start(name: str, tmp_path: Path, start: Start) -> None:
    begin, end = ["-----BEGIN {}-----", "-----END {}-----\n"]
    broken = "".join(f"{begin}\nAAAA\n{end}".format(kind, kind) for kind in ("CERTIFICATE", "PRIVATE KEY"))
    one = start("rediss://127.0.0.1:1", {"broken.pem": broken}, **{name: "broken.pem"})
    assert "what whitelist.tls_ca_file or tls_cert_file holds cannot be used" in refused(one)


def test_plain_words_to_an_engine_that_speaks_tls_get_nowhere(tls: tuple[Redis, dict[str, str]], start: Start) -> None:
    one = start(tls[0].store)
    eventually(lambda: one.listening, "it listens", 15)
    assert one.verify(HERE) == 401
    assert ready(one) != []


def test_whatever_answers_there_that_is_no_engine_is_told_so(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "engine") as engine:
        web = gate(tmp_path / "web", engine.store, SETTINGS)
        web.start()
        try:
            one = start(f"redis://127.0.0.1:{web.port}")
            eventually(lambda: one.listening, "it listens", 15)
            assert one.knock(HERE, PHONE).status == 503
            assert "speaks another protocol than Redis'" in ready(one)[0]
        finally:
            web.end()


def test_entries_that_no_gate_wrote_open_nothing(tmp_path: Path, start: Start) -> None:
    with Redis(tmp_path / "engine") as engine:
        one = start(engine.store)
        in_step(one)
        one.knock(HERE, PHONE)
        record = engine.ask("GET", f'{{knocker}}:grant:["phone","{HERE}",null]').split()
        talk = Talk(engine.port)
        broken = {
            "nonsense": "nonsense",
            '["phone","203.0.113.9"]': " ".join(record),
            '["phone","203.0.113.10",null]': "short 1 2 3 http x 4",
            '["phone","203.0.113.11",null]': " ".join([*record[:4], "file", *record[5:]]),
            '["phone","203.0.113.12",null]': " ".join([*record[:5], "another-mark", record[6]]),
            '["phone", "203.0.113.13", null]': " ".join(record),
            '["phone","203.0.113.16/28",null]': " ".join(record),
            '["phone","0.0.0.0/0",null]': " ".join(record),
            '["admin","0.0.0.0/1",null]': " ".join([*record[:4], "remote", *record[5:]]),
            '["phone","127.0.0.1",null]': " ".join(record),
            '["phone","203.0.113.14",null]': " ".join([record[0], "1", str(10**14), str(10**14), *record[4:]]),
        }
        for owner, value in broken.items():
            talk.ask("SET", f"{{knocker}}:grant:{owner}", value)
            talk.ask("ZADD", "{knocker}:all", 10**13, owner)
        talk.close()
        one.terminate()
        one.start()
        assert one.verify(HERE) == 200
        for client in [f"203.0.113.{last}" for last in range(9, 32)] + ["8.8.8.8", "127.0.0.1", "100.1.2.3"]:
            assert one.verify(client) == 401, client
        assert "no Knocker wrote" in one.log
        assert ready(one) == []


def test_without_the_packages_a_start_says_which_are_missing(tmp_path: Path) -> None:
    one = gate(tmp_path, "redis://127.0.0.1:1", SETTINGS)
    script = "import sys; sys.modules['txredisapi'] = None; from twisted.scripts.twistd import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", script, *one.command[1:]],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("(txredisapi): pip install '.[redis]' in a checkout of Knocker")
