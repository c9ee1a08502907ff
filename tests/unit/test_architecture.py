"""Rules of ARCHITECTURE.md that import-linter cannot say."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "dockyard"
# What `python -I -S` executes, with no site-packages: these and all that they import.
FROZEN = ("runtime.zygote", "runtime.monitor", "runtime.init", "runtime.network", "store.journal.writer")


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path, deep: bool = True) -> set[str]:
    """Names of the modules a file imports; not `deep`: only when it is itself imported, not inside functions."""
    tree = parsed(path)
    nodes = ast.walk(tree) if deep else iter(executed(tree.body))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


def executed(body: list[ast.stmt]) -> list[ast.stmt]:
    """Statements that run on import; what `if TYPE_CHECKING:` guards does not."""
    found: list[ast.stmt] = []
    for node in body:
        guard = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not guard:
            found.append(node)
            for part in ("body", "orelse", "finalbody"):
                if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    found += executed(getattr(node, part, []))
    return found


def test_only_linux_imports_ctypes() -> None:
    using = {
        str(path.relative_to(SOURCE)) for path in modules() if "ctypes" in {n.split(".")[0] for n in imported(path)}
    }
    assert {name for name in using if not name.startswith("linux/")} == set()


def file_of(module: str) -> Path | None:
    """The file of `dockyard.a.b`, or None for a name in a module."""
    path = SOURCE.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def ours(path: Path) -> set[Path]:
    """Files of ours that are executed when this one is imported, packages on the way included."""
    names = {name for name in imported(path, deep=False) if name.split(".")[0] == "dockyard"}
    for node in executed(parsed(path).body):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dockyard":
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    prefixes = {".".join(name.split(".")[:length]) for name in names for length in range(2, len(name.split(".")) + 1)}
    return {found for name in prefixes if (found := file_of(name))}


def frozen_modules() -> list[Path]:
    """Everything that the zygote's side imports, found by following the imports."""
    todo = [found for name in FROZEN if (found := file_of(f"dockyard.{name}"))]
    assert len(todo) == len(FROZEN), "a module of the zygote's side is gone: put the list right"
    todo += sorted((SOURCE / "linux").glob("*.py"))
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += ours(path)
    return sorted(seen)


@pytest.mark.parametrize("path", frozen_modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_what_runs_in_the_zygote_imports_the_standard_library_only(path: Path) -> None:
    foreign = {
        name
        for name in imported(path, deep=False)
        if name.split(".")[0] not in sys.stdlib_module_names and name.split(".")[0] != "dockyard"
    }
    assert foreign == set()
    assert path.relative_to(SOURCE).parts[0] in ("runtime", "linux", "store", "__init__.py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_says_what_it_owns(path: Path) -> None:
    text = path.read_text()
    if path.name != "__init__.py" or len(text) > 400:
        assert ast.get_docstring(parsed(path)), f"{path} begins without saying what it owns"


def test_the_daemon_never_forks() -> None:
    """Invariant 4: os.fork and multiprocessing belong to the zygote's side alone."""
    forking = set()
    for path in modules():
        nodes = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)]
        calls = {ast.unparse(node) for node in nodes if node.attr in ("fork", "forkpty")}
        if calls & {"os.fork", "os.forkpty"} or "multiprocessing" in imported(path):
            forking.add(str(path.relative_to(SOURCE)))
    assert {name for name in forking if name.split("/")[0] not in ("runtime", "linux")} == set()
    assert "runtime/client.py" not in forking
