"""Who may know whom, and how large a room may grow: read from the source, not from what happens to be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "knocker").rglob("*.py"))

# What the core may not have: clocks, sockets, files, threads, processes, randomness, logs.
_WORLDLY = {
    *(
        "asyncio",
        "concurrent",
        "contextvars",
        "datetime",
        "fcntl",
        "fileinput",
        "glob",
        "http",
        "io",
        "logging",
        "mmap",
    ),
    *(
        "multiprocessing",
        "os",
        "pathlib",
        "platform",
        "posix",
        "pwd",
        "queue",
        "random",
        "resource",
        "sched",
        "secrets",
    ),
    *("select", "selectors", "shelve", "shutil", "signal", "socket", "socketserver", "sqlite3", "ssl", "subprocess"),
    *("sys", "syslog", "tempfile", "threading", "time", "urllib", "uuid", "warnings"),
}
# What a worldly module has that is none of that: a plain function of a text, at the speed of C.
_PLAIN = {"socket": {"AF_INET", "AF_INET6", "inet_ntop", "inet_pton"}}
_WORLDLY_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}

# A room, and what its modules may import beside the standard library. The longest matching room counts.
ROOMS: dict[str, set[str]] = {
    "knocker.core": {"knocker.core"},
    "knocker.core.packets": {"knocker.core", "cryptography"},
    "knocker.listen": {"knocker.core", "knocker.listen", "twisted", "zope.interface"},
    "knocker.listen.metrics": {"knocker.core", "knocker.listen", "twisted", "prometheus_client"},
    "knocker.listen.web": {"knocker.core", "knocker.listen", "twisted", "zope.interface", "klein", "werkzeug"},
    "knocker.store": {"knocker.core", "knocker.store", "twisted"},
    "knocker.store.redis.link": {
        *("knocker.core", "knocker.store", "twisted", "txredisapi", "OpenSSL", "service_identity"),
    },
    "knocker.settings": {"knocker.core", "knocker.settings", "yaml"},
    "knocker.cli": {
        "knocker",
        "knocker.core",
        "knocker.settings",
        "knocker.faults",
        "knocker.knocking",
        "knocker.remote",
        "knocker.copying",
        "knocker.doctor",
        "click",
    },
    "knocker.copying": {"knocker.core", "knocker.settings", "knocker.faults", "click"},
    "knocker.doctor": {"knocker.core", "knocker.doctor"},
    "knocker.doctor.asking": {
        *("knocker.core", "knocker.account", "knocker.client", "knocker.remote", "knocker.faults", "knocker.doctor"),
    },
    "knocker.doctor.probing": {"knocker.account", "knocker.client", "knocker.faults", "knocker.doctor"},
    "knocker.doctor.command": {
        *("knocker.core", "knocker.account", "knocker.remote", "knocker.faults", "knocker.doctor", "click"),
    },
    "knocker.remote": {"knocker.core", "knocker.account", "knocker.client", "knocker.faults", "click"},
    "knocker.account": {"knocker.core", "knocker.settings", "knocker.faults"},
    "knocker.confirming": {"knocker.account", "knocker.client", "knocker.faults"},
    "knocker.keeping": {"knocker.faults"},
    "knocker.sending": {"knocker.core", "knocker.client", "knocker.faults"},
    "knocker.knocking": {
        *("knocker.core", "knocker.account", "knocker.client", "knocker.remote", "knocker.faults", "click"),
        *("knocker.confirming", "knocker.keeping", "knocker.knockoptions", "knocker.sending"),
    },
    "knocker.knockoptions": {"knocker.core", "click"},
    "knocker.client": {"knocker", "knocker.core", "knocker.account", "knocker.faults"},
    "knocker.faults": {"click"},
    "knocker.descriptors": set(),
    "knocker.logs": {"knocker.core", "twisted", "zope.interface"},
    "knocker.audit": {"knocker.core", "twisted"},
    "knocker.reaper": {"knocker.core", "twisted"},
    "knocker.lag": {"twisted"},
    "knocker.notifying": set(),
    "knocker.options": {"knocker.logs", "knocker.settings", "knocker", "twisted"},
}
# Where an import inside a function is not an import at the door.
_LAZY = {"knocker.cli", "knocker.copying"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.AST, lazy: bool = False) -> Iterator[str]:
    """The names of all modules that `tree` imports; with `lazy`, only those that are imported with it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            # `from knocker import store` is an import of knocker.store.
            yield from (
                (f"knocker.{alias.name}" if node.module == "knocker" else node.module or "") for alias in node.names
            )
        elif not (lazy and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield from imports(node, lazy)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _room(name: str) -> str | None:
    return max((room for room in ROOMS if _within(name, room)), key=len, default=None)


def _allowed(module: str, room: str) -> bool:
    if module.partition(".")[0] in sys.stdlib_module_names:
        return True
    # `knocker` alone is the package with its version, not everything below it.
    return any(module == package or (package != "knocker" and _within(module, package)) for package in ROOMS[room])


each_module = pytest.mark.parametrize("path", [pytest.param(path, id=name_of(path)) for path in MODULES])


@each_module
def test_a_module_imports_only_what_its_room_may_know(path: Path) -> None:
    name = name_of(path)
    room = _room(name)
    if room is None:
        return
    found = imports(tree_of(path), lazy=room in _LAZY)
    strangers = sorted({module for module in found if not _allowed(module, room) and module != "knocker.__version__"})
    assert not strangers, f"{name} imports {', '.join(strangers)}"


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=name_of(path)) for path in MODULES if _within(name_of(path), "knocker.core")]
)
def test_the_core_has_no_clock_socket_file_thread_chance_or_log(path: Path) -> None:
    tree = tree_of(path)
    plain = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and _is_plain(node)]
    tree = ast.Module([node for node in tree.body if node not in plain], [])
    worldly = sorted({module for module in imports(tree) if module.partition(".")[0] in _WORLDLY})
    assert not worldly, f"{name_of(path)} imports {', '.join(worldly)}"
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & _WORLDLY_CALLS


def _is_plain(node: ast.ImportFrom) -> bool:
    return {alias.name for alias in node.names} <= _PLAIN.get(node.module or "", set())


@each_module
def test_nobody_imports_the_service(path: Path) -> None:
    assert not [module for module in imports(tree_of(path)) if _within(module, "knocker.service")]


@each_module
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree_of(path)), f"{name_of(path)} has no docstring"


@each_module
def test_a_module_has_at_most_300_lines_of_code(path: Path) -> None:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    assert len([line for line in lines if line and not line.startswith("#")]) <= 300


@each_module
def test_a_function_has_at_most_40_lines(path: Path) -> None:
    long = [
        f"{node.name}: {(node.end_lineno or 0) - node.lineno + 1}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 40
    ]
    assert not long, f"{name_of(path)}: {', '.join(long)}"


def test_there_are_modules_to_look_at() -> None:
    assert {"knocker", "knocker.core.gate", "knocker.settings.reading"} <= {name_of(path) for path in MODULES}


@pytest.mark.parametrize(
    ("source", "lazy", "found"),
    [
        pytest.param("import a.b, c", False, ["a.b", "c"], id="plain"),
        pytest.param("from a.b import c", False, ["a.b"], id="from"),
        pytest.param("from knocker import store", False, ["knocker.store"], id="a room by the back door"),
        pytest.param("def f():\n    import a", False, ["a"], id="inside a function"),
        pytest.param("def f():\n    import a", True, [], id="inside a function, lazily"),
        pytest.param("class C:\n    import a", True, ["a"], id="inside a class, at once"),
        pytest.param("try:\n    import a\nexcept ImportError:\n    pass", True, ["a"], id="inside a try, at once"),
        pytest.param("if x:\n    from a import b", True, ["a"], id="inside a condition, at once"),
    ],
)
def test_every_import_is_seen(source: str, lazy: bool, found: list[str]) -> None:
    assert list(imports(ast.parse(source), lazy)) == found


def test_the_plugins_directory_is_no_package() -> None:
    assert not list((ROOT / "twisted").rglob("__init__.py"))


def test_the_plugin_names_the_service_as_text_and_imports_only_twisted() -> None:
    for path in (ROOT / "twisted").rglob("*.py"):
        assert all(_within(module, "twisted") for module in imports(tree_of(path)))


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git working tree")
    local = f"/{'work'}/".encode()
    files = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    named = [file for file in files if file.is_file() and local in file.read_bytes()]
    assert not named
