"""What is installed is whole: from a wheel in a fresh environment, and from a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(200)
def test_a_wheel_in_a_fresh_environment_shows_the_plugin_to_twistd(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("knocker", "twisted", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        run("cp", "-r", ROOT / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, source)
    (wheel,) = tmp_path.glob("knocker_gate-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "twisted/plugins/knocker_plugin.py" in names
    assert "knocker/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "demo")) or name == "twisted/__init__.py"]
    fresh = tmp_path / "venv"
    venv.create(fresh, with_pip=True)
    run(fresh / "bin/pip", "install", "-q", "--no-deps", wheel)
    # The dependencies are this environment's; what is tested is what the wheel itself brings.
    (site,) = fresh.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    twisted = "import sys; from twisted.scripts.twistd import run; sys.argv[1:] = ['--help']; run()"
    assert "knock-knock gateway" in run(fresh / "bin/python", "-c", twisted)
    assert "check" in run(fresh / "bin/knocker", "--help")


def test_an_editable_install_shows_the_plugin_to_twistd() -> None:
    assert "knock-knock gateway" in run(os.path.join(sysconfig.get_path("scripts"), "twistd"), "--help")
