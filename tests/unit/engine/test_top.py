"""The columns of `top`, on processes that are there."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from dockyard.engine.top import columns_of, listing, order_of, titles
from dockyard.model.errors import InvalidArgument


def test_default_columns_are_those_of_ps_ef() -> None:
    assert titles(columns_of("")) == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("aux", ["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"]),
        ("-o pid,cmd", ["PID", "CMD"]),
        ("-eo pid,comm=NAME", ["PID", "NAME"]),
        ("-o pid -o user", ["PID", "USER"]),
        ("--format=pid,rss", ["PID", "RSS"]),
        ("-e", ["PID", "TTY", "TIME", "CMD"]),
        ("axo pid,comm", ["PID", "COMMAND"]),
        ("-o pid --sort=-rss,comm", ["PID"]),
        ("--sort pid -e", ["PID", "TTY", "TIME", "CMD"]),
    ],
)
def test_arguments(arguments: str, expected: list[str]) -> None:
    assert titles(columns_of(arguments)) == expected


@pytest.mark.parametrize(
    "arguments", ["-o nosuch", "-o", "--help", "-p 1", "axoz pid", "-o pid;id", "$(id)", "1", "-o pid --sort nosuch"]
)
def test_what_is_not_understood_is_refused(arguments: str) -> None:
    with pytest.raises(InvalidArgument):
        columns_of(arguments)
        order_of(arguments)


def test_rows_in_another_order() -> None:
    children = [subprocess.Popen(["sleep", seconds]) for seconds in ("30", "31", "32")]
    try:
        time.sleep(0.05)
        pids = [child.pid for child in children]
        for keys, expected in ("-pid", [2, 1, 0]), ("comm,-args", [2, 1, 0]), ("+comm", [0, 1, 2]), ("nlwp", [0, 1, 2]):
            rows = listing(pids, columns_of(f"-o pid --sort={keys}"), order_of(f"-o pid --sort={keys}"))
            assert rows == [[str(pids[place])] for place in expected], keys
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_rows_agree_with_ps() -> None:
    child = subprocess.Popen(["sleep", "30"])
    try:
        time.sleep(0.05)
        ours = listing([child.pid, 4_000_000], columns_of("-o pid,ppid,user,comm,args,nlwp,stat"))
        command = ["ps", "-o", "pid=,ppid=,user=,comm=,nlwp=", "-p", str(child.pid)]
        theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert [ours[0][0], ours[0][1], ours[0][2], ours[0][3], ours[0][5]] == theirs
        assert ours[0][4] == "sleep 30"
        assert ours[0][6].startswith("S")
        assert len(ours) == 1, "a process that is gone is left out"
        assert ours[0][1] == str(os.getpid())
    finally:
        child.kill()
        child.wait()
