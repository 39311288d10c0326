"""The corpus's settings files: each is read, warned of, or refused with every fault in its place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from knocker import settings
from tests.attacks.corpus import Case, chosen, latin

AREAS = ("config",)
_CASES = [pytest.param(case, id=case.id) for case in chosen(AREAS)]

# What a process says that may not read the file: imported first, since its new user may not read the sources either.
_READ_AS = """
import os, sys
from knocker import settings
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    settings.load(sys.argv[1])
except settings.Faulty as fault:
    print(fault)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user may enter, so that only the file's own mode keeps them out."""
    with tempfile.TemporaryDirectory(prefix="knocker-config-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize("case", _CASES)
def test_a_settings_file_is_read_or_refused_with_words_that_help(case: Case, directory: Path) -> None:
    path = directory / "knocker.yaml"
    text = (
        "" if case.config_text is None else latin(case.config_text).decode("latin-1").replace("TMP/", f"{directory}/")
    )
    if case.config_text is not None:
        path.write_bytes(text.encode("latin-1"))
        path.chmod(int(case.file_mode, 8))
    started = time.monotonic()
    if case.as_user:
        assert (case.as_user, case.needs) == ("nobody", "nonroot")
        faults, warnings = _read_as_nobody(path), ""
    else:
        faults, warnings = _read(path)
    assert case.within_s is None or time.monotonic() - started <= case.within_s
    _judge(case, faults, warnings, str(path), text)
    if case.must_not_exist:
        assert not Path(case.must_not_exist.replace("TMP/", f"{directory}/")).exists()


def _read(path: Path) -> tuple[str, str]:
    """The faults and the warnings; anything but Faulty is an error of the program."""
    try:
        return "", "\n".join(settings.load(str(path)).warnings)
    except settings.Faulty as fault:
        return "\n".join(fault.faults), ""


def _read_as_nobody(path: Path) -> str:
    """The faults that another user gets; for tests that are not run by root, our own."""
    if os.geteuid() != 0:
        return _read(path)[0]
    os.chown(path, 65534, 65534)
    done = subprocess.run(
        [sys.executable, "-c", _READ_AS, str(path)], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def _judge(case: Case, faults: str, warnings: str, path: str, text: str) -> None:
    expect = dict(case.expect)
    start, says = expect.pop("start"), expect.pop("says", [])
    assert not expect, f"unknown members: {sorted(expect)}"
    assert start in ("fail", "ok_or_fail", "ok_warn")
    if start != "ok_or_fail":
        assert bool(faults) == (start == "fail"), f"faults: {faults!r}"
    assert all(line.startswith(f"{path}: ") for line in (faults + warnings).splitlines())
    said = (faults if start == "fail" else warnings).replace(f"{path}: ", "")
    assert not says or any(latin(words).decode("latin-1") in said for words in says), said
    for secret in re.findall(r'key: "([^"]{8,})"', text):
        assert secret not in faults + warnings
