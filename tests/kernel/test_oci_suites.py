"""crun's own tests, as they come with its sources, against `dockyard-runtime`.

The source is Debian's, fetched by apt into `.cache/`; docs/runtime.md lists what is left out and why, out of
`support.oci_suites`. What the tests lack is put beside them: the static program of their containers, compiled here, and
a stand-in for python3-libmount. `DOCKYARD_TEST_OCI_RUNTIME=/usr/bin/crun` asks another runtime the same, by hand: to
see what fails there, too.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.oci import OURS
from tests.support.oci_suites import CRUN, CRUN_LEFT_OUT, CRUN_PASSING, CRUN_SHA256, NotToBeHad, source

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
AT_ONCE = 4

LIBMOUNT = '''"""As much of libmount as is asked for: options of a mount out of a file like mountinfo."""


class Mount:
    def __init__(self, fields):
        self.vfs_options, self.fs_options = fields[5], fields[fields.index("-") + 3]


class Table:
    def __init__(self, path):
        with open(path) as file:
            self.lines = [line.split() for line in file if " - " in line]

    def find_target(self, target):
        return next((Mount(fields) for fields in reversed(self.lines) if fields[4] == target), None)
'''


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The directory to run the tests from: their own is `tests`."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler for the program that crun's tests run in containers")
    try:
        archive = source("crun", CRUN, CRUN_SHA256)
    except NotToBeHad as error:
        pytest.skip(str(error))
    os.chmod(tmp_path, 0o711)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if re.fullmatch(r"[^/]+/tests/(init\.c|\w+\.py)", member.name):
                member.name = member.name.partition("/")[2]
                tar.extract(member, tmp_path, filter="data")
    (tmp_path / "config.h").touch()
    (tmp_path / "tests/libmount.py").write_text(LIBMOUNT)
    runtime = tmp_path / "runtime"
    asked = os.environ.get("DOCKYARD_TEST_OCI_RUNTIME") or shlex.join(OURS)
    runtime.write_text(f'#!/bin/sh\nexec {asked} "$@"\n')
    runtime.chmod(0o755)
    subprocess.run(["gcc", "-static", "-I.", "-o", "tests/init", "tests/init.c"], cwd=tmp_path, check=True, timeout=60)
    return tmp_path


def names(file: Path) -> list[str]:
    """The tests of a file that are not left out."""
    table = file.read_text().rpartition("\nall_tests = {")[2].partition("}")[0]
    return [name for name in re.findall(r'"([\w-]+)"\s*:', table) if f"{file.name} {name}" not in CRUN_LEFT_OUT]


def run(suite: Path, file: Path) -> str:
    """What one file's tests print, on a terminal of their own."""
    environment = {**os.environ, "OCI_RUNTIME": str(suite / "runtime"), "RUN_TESTS": " ".join(names(file))}
    command = shlex.join([sys.executable, f"tests/{file.name}"])
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], cwd=suite, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=120, check=False,
    )  # fmt: skip
    return f"{file.name}:\n{done.stdout}"


@pytest.mark.timeout(240)
def test_the_tests_of_crun(suite: Path) -> None:
    files = sorted((suite / "tests").glob("test_*.py"))
    known = {f"{file.name} {name}" for file in files for name in re.findall(r'"([\w-]+)"\s*:', file.read_text())}
    assert not CRUN_LEFT_OUT.keys() - known
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = list(pool.map(lambda file: run(suite, file), files))
    results = [found for text in said for found in re.findall(r"(not )?ok \d+ - \S+( #SKIP)?", text)]
    failed = [text for text in said if re.search(r"not ok \d+ - |Traceback", text)]
    assert not failed, "\n".join(failed)
    passed = len([found for found in results if found == ("", "")])
    assert passed >= CRUN_PASSING, f"{passed} passed\n" + "\n".join(said)
