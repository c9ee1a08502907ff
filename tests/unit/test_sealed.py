"""The copy of the package that a daemon runs out of."""

from __future__ import annotations

import asyncio
import fcntl
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dockyard
from dockyard.runtime import channel, importer, sealed
from dockyard.runtime.shipper.process import Shipper


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package called dockyard; `sealed` takes it for its own."""
    root = tmp_path / "dockyard"
    files = {
        "__init__.py": "__version__ = '1'\n",
        "runtime/__init__.py": "",
        "runtime/importer.py": Path(importer.__file__).read_text(),
        "data/__init__.py": "import pkgutil\nTEXT = pkgutil.get_data(__name__, 'x.json')\n",
        "data/x.json": "{}",
        "late.py": "WHEN = 'then'\n",
        "edge/__init__.py": "",
        "edge/cli/__init__.py": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(dockyard, "__file__", str(root / "__init__.py"))
    return root


@pytest.fixture
def code(package: Path) -> Iterator[sealed.Code]:
    made = sealed.seal_package()
    yield made
    os.close(made.fd)


def run(fd: int, script: str) -> str:
    """In an interpreter that knows nothing of ours but the descriptor."""
    command = [sys.executable, "-I", "-S", "-c", importer.BEGIN % (fd, fd) + script]
    done = subprocess.run(command, pass_fds=[fd], capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_what_is_imported_later_is_what_was_there_at_the_start(code: sealed.Code, package: Path) -> None:
    (package / "late.py").write_text("WHEN = 'now, and more'\n")
    assert run(code.fd, "import dockyard.late as m; print(m.WHEN, m.__file__)") == "then sealed:dockyard/late.py"
    shutil.rmtree(package)
    assert run(code.fd, "import dockyard.late; print(dockyard.late.WHEN, dockyard.__version__)") == "then 1"


def test_data_files_come_along_and_other_programs_do_not(code: sealed.Code) -> None:
    assert run(code.fd, "import dockyard.data as m; print(m.TEXT)") == "b'{}'"
    assert run(code.fd, "import dockyard.edge.cli").startswith(
        "ModuleNotFoundError: No module named 'dockyard.edge.cli'"
    )
    script = "import pkgutil; print(pkgutil.get_data('dockyard.data', 'y.json'))"
    assert run(code.fd, script).startswith("FileNotFoundError")


def test_the_descriptors_that_importing_needs_are_known(code: sealed.Code) -> None:
    script = "from dockyard.runtime import importer; sys.path.append('/proc/self/fd/77'); print(importer.descriptors())"
    assert run(code.fd, script) == str([code.fd, 77])


def test_s1_nobody_can_write_to_it(code: sealed.Code) -> None:
    with pytest.raises(PermissionError):
        os.pwrite(code.fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(code.fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(code.fd, fcntl.F_ADD_SEALS, 0)


def test_a_compiled_file_counts_only_for_the_source_that_it_is_of(package: Path) -> None:
    py_compile.compile(str(package / "late.py"))
    status = (package / "late.py").stat()
    first = sealed.seal_package()
    (package / "late.py").write_text("WHEN = 'anew'\n")
    os.utime(package / "late.py", (status.st_atime, status.st_mtime + 2))
    second = sealed.seal_package()
    try:
        assert run(second.fd, "import dockyard.late; print(dockyard.late.WHEN)") == "anew"
        assert first.build != second.build
    finally:
        os.close(first.fd)
        os.close(second.fd)


def test_a_file_that_is_being_written_is_told(package: Path) -> None:
    (package / "late.py").write_text("WHEN = (\n")
    with pytest.raises(SyntaxError):
        sealed.seal_package()


def test_a_shipper_whose_accept_fails_does_not_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    def broken(listener: Any) -> None:
        calls.append(listener)
        raise AttributeError("of another version")

    async def test() -> None:
        home = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        listener = channel.listen(home, "shipper.sock")
        monkeypatch.setattr(channel, "accept", broken)
        shipper = Shipper(listener, home, str(tmp_path), "1")
        client = channel.connect(home, "shipper.sock")
        task = asyncio.ensure_future(shipper.run())
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        client.close()
        listener.close()
        os.close(home)

    asyncio.run(test())
    assert len(calls) == 1
    assert "cannot take a connection" in capfd.readouterr().err
