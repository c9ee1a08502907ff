"""The program of docs/embedding.md, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import busybox
from tests.support.engines import why_no_dockyardd

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"


def test_the_program_of_the_page(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if why_no_dockyardd() or request.config.getoption("--engine") == "dockerd":
        pytest.skip("needs root, and asks our engine")
    program = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert program
    (tmp_path / "program.py").write_text(program[1])
    (tmp_path / "rootfs.tar").write_bytes(busybox.rootfs_tar())
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path), str(tmp_path / "rootfs.tar")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("hello from inside\nexit code 0\n", 0), done.stderr
