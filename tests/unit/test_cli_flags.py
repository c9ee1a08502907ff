"""The command line: docker's conventions for flags, the catalogue of commands, help."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.edge.cli import catalog, help, main
from dockyard.edge.cli.call import Body
from dockyard.edge.cli.flags import BYTES, FILTER, INT, FlagError, Parsed, flag, many, parse, value

FLAGS = (
    flag("-a --all", "All"),
    flag("-i --interactive", "In"),
    flag("-t --tty", "Tty"),
    many("-e --env", "Env"),
    value("-m --memory", "Memory", BYTES),
    value("-n --last", "Last", INT),
    many("-f --filter", "Filter", FILTER),
    value("--name", "Name"),
    value("--old", "Old", INT, hidden=True, instead="last"),
)


def read(*words: str, interspersed: bool = True) -> Parsed:
    return parse(FLAGS, words, interspersed=interspersed)


@pytest.mark.parametrize(
    ("words", "values", "arguments"),
    [
        (["-a"], {"all": True}, []),
        (["--all=false"], {"all": False}, []),
        (["-a=false", "x"], {"all": False}, ["x"]),
        (["-it", "x"], {"interactive": True, "tty": True}, ["x"]),
        (["-itm512m", "x"], {"interactive": True, "tty": True, "memory": 512 << 20}, ["x"]),
        (["-m=512m"], {"memory": 512 << 20}, []),
        (["-m", "512m"], {"memory": 512 << 20}, []),
        (["-m-1"], {"memory": -1}, []),
        (["--memory=512m"], {"memory": 512 << 20}, []),
        (
            ["-e", "A=b", "-e=C=d", "-eE=f", "--env", "G", "--env=H=i=j"],
            {"env": ["A=b", "C=d", "E=f", "G", "H=i=j"]},
            [],
        ),
        (["-e", "--all"], {"env": ["--all"]}, []),
        (["x", "-a", "y"], {"all": True}, ["x", "y"]),
        (["x", "--", "-a"], {}, ["x", "-a"]),
        (["-", "-a"], {"all": True}, ["-"]),
        (["--name="], {"name": ""}, []),
        (["-f", "Status = up"], {"filter": [("status", "up")]}, []),
        (["--old", "5"], {"last": 5}, []),
        (["-n", "1", "-n", "2"], {"last": 2}, []),
    ],
)
def test_conventions(words: list[str], values: dict[str, object], arguments: list[str]) -> None:
    parsed = read(*words)
    assert (parsed.values, parsed.arguments) == (values, arguments)


def test_flags_end_at_the_first_argument_where_a_command_asks_for_it() -> None:
    parsed = read("-a", "image", "-t", "--help", interspersed=False)
    assert (parsed.values, parsed.arguments, parsed.help) == ({"all": True}, ["image", "-t", "--help"], False)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--bogus"], "unknown flag: --bogus"),
        (["-aZ"], "unknown shorthand flag: 'Z' in -aZ"),
        (["--name"], "flag needs an argument: --name"),
        (["-e"], "flag needs an argument: 'e' in -e"),
        (["-m", "lots"], 'invalid argument "lots" for "-m, --memory" flag: invalid size: \'lots\''),
        (["--last", "x"], 'invalid argument "x" for "-n, --last" flag: not a whole number'),
        (["--all=maybe"], 'invalid argument "maybe" for "-a, --all" flag: neither true nor false'),
        (["-f", "x"], 'invalid argument "x" for "-f, --filter" flag: bad format of filter (expected name=value)'),
    ],
)
def test_what_does_not_fit_names_the_flag(words: list[str], complaint: str) -> None:
    with pytest.raises(FlagError) as caught:
        read(*words)
    assert (caught.value.message, caught.value.code) == (complaint, 125)


def test_help_and_deprecation() -> None:
    assert read("--help").help and read("-h").help
    assert [each.names for each in read("--old", "1").deprecated] == [("--old",)]
    assert not parse(FLAGS, ["--help", "--bogus", "-Z"], interspersed=True, lenient=True).help


@given(st.lists(st.text(min_size=1, max_size=8)))
def test_lenient_reading_never_complains(words: list[str]) -> None:
    parse(FLAGS, words, interspersed=True, lenient=True)


@given(st.lists(st.text(max_size=8)))
def test_what_follows_two_dashes_is_arguments(words: list[str]) -> None:
    assert read("-a", "--", *words).arguments == words


# -- the catalogue ----------------------------------------------------------------------------------------------------


def bodies() -> list[tuple[catalog.Entry, Body]]:
    return [(entry, main.load(entry)) for entry in catalog.ENTRIES]


def test_every_command_loads_and_has_help() -> None:
    for entry, body in bodies():
        text = help.of_command(entry, entry.path, body.flags)
        assert text.startswith(f"Usage:  dockyard {entry.path}")
        assert all(len(line) <= 100 for line in text.splitlines() if not line.startswith(("  dockyard", "Usage")))
        assert entry.summary in text


def test_every_path_is_one_command_and_every_group_has_some() -> None:
    paths = [path for entry in catalog.ENTRIES for path in entry.paths]
    assert len(paths) == len(set(paths))
    for path in paths:
        found, length = catalog.find([*path.split(), "x"])
        assert found is not None and path in found.paths and length == len(path.split())
    assert {path.split()[0] for path in paths if " " in path} == set(catalog.GROUPS)


def test_no_command_has_a_flag_twice() -> None:
    for entry, body in bodies():
        names = [name for each in body.flags for name in each.names]
        assert len(names) == len(set(names)), entry.path


def test_help_of_the_program_names_every_top_level_command() -> None:
    text = help.of_program(main.GLOBAL_FLAGS)
    for entry in catalog.ENTRIES:
        for path in entry.paths:
            if " " not in path:
                assert f"  {path} " in text


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("ps", "'dockyard ps' accepts no arguments"),
        ("rm", "'dockyard rm' requires at least 1 argument"),
        ("exec", "'dockyard exec' requires at least 2 arguments"),
        ("tag", "'dockyard tag' requires 2 arguments"),
        ("logs", "'dockyard logs' requires 1 argument"),
        ("port", "'dockyard port' requires between 1 and 2 arguments"),
    ],
)
def test_number_of_arguments(path: str, complaint: str) -> None:
    entry, _ = catalog.find([path])
    assert entry is not None
    assert help.arity(entry, path) == complaint


# -- start-up ---------------------------------------------------------------------------------------------------------


def test_the_start_imports_little() -> None:
    """What `version` imports is what every command pays for: none of the heavy modules may come in by accident."""
    script = (
        "import sys; from dockyard.edge.cli import main; import dockyard.edge.cli.api; "
        "import dockyard.edge.cli.commands.version; print(' '.join(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {script}"],
                         capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    heavy = {"click", "rich", "asyncio", "http.client", "email", "typing", "socket", "ssl", "msgspec", "inspect",
             "argparse", "dataclasses", "logging", "urllib.parse", "subprocess"}  # fmt: skip
    assert not heavy & set(out)


def test_the_client_imports_no_engine() -> None:
    root = Path(main.__file__).parent
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dockyard"):
                assert (node.module or "").startswith(("dockyard.edge.cli", "dockyard.proto", "dockyard.model")), (
                    file,
                    node.module,
                )


def test_every_module_under_commands_is_used() -> None:
    used = {entry.body.partition(":")[0] for entry in catalog.ENTRIES}
    folder = Path(import_module("dockyard.edge.cli.commands").__file__ or "").parent
    assert {file.stem for file in folder.glob("[a-z]*.py")} == used
