"""The pages are true to the programs: what they show can be typed, what they link to is there."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dockyard import configuration
from dockyard.edge.cli import catalog
from dockyard.edge.cli.flags import FlagError, parse
from dockyard.edge.cli.main import GLOBAL_FLAGS, load
from dockyard.edge.cli.unknown import ABSENT
from dockyard.edge.registry import configuration as registry
from dockyard.proto import hostsfile
from dockyard.proto.dockerfile.parse import FLAGS as DOCKERFILE
from dockyard.runtime.oci.commands import COMMANDS as OCI
from tests.support import pages
from tests.support.pages import PAGES, ROOT

HISTORY = (ROOT / "CHANGELOG.md", ROOT / "ARCHITECTURE.md")  # they also tell of what is not typed
OTHERS = {  # flags of programs of others, and those that pages name because they are refused
    "--criu", "--debug", "--regex", "--help", "--version", "--systemd-cgroup", "--sdnotify", "--uidmap",
    "--cgroup-manager",
}  # fmt: skip


def ids(page: Path) -> str:
    return page.name


def check(words: list[str], *, whole: bool) -> None:
    """`whole`: with all its arguments, not the beginning of a command in a sentence."""
    program, *rest = words
    if program == "dockyard":
        check_dockyard(rest, whole=whole)
    elif program == "docker":
        check_docker(rest)
    elif program == "dockyardd":
        named = {flag for option in configuration.OPTIONS for flag in option.flags} | {
            "--help",
            "--validate",
            "--version",
        }
        assert not flags_of(rest) - named - {"--config-file"}
    elif program == "dockyard-runtime" and rest[0] != "[--root":
        at = next((n for n, word in enumerate(rest) if not word.startswith("-") and rest[n - 1] != "--root"), None)
        assert at is None or rest[at] in OCI or rest[at] == "…"


def check_dockyard(words: list[str], *, whole: bool) -> None:
    given = parse(GLOBAL_FLAGS, words, interspersed=False).arguments
    if given[:1] == ["help"] or not given or given[0] in ("…", "COMMAND"):
        return
    entry, length = catalog.find(given)
    if entry is None:
        assert not whole and given[0] in catalog.GROUPS and set(given[1:]) <= {"…"}, f"no such command: {given}"
        return
    rest = [word for word in given[length:] if word != "…"]
    parsed = parse(load(entry).flags, rest, interspersed=not entry.options_first)
    if whole and "…" not in given:
        assert entry.least <= len(parsed.arguments) <= entry.most, f"{given}: number of arguments"


@functools.cache
def docker_help(*path: str) -> str:
    return subprocess.run(["docker", *path, "--help"], capture_output=True, text=True, timeout=20, check=False).stdout


def check_docker(words: list[str]) -> None:
    if not shutil.which("docker"):
        pytest.skip("the docker command says what it has, and is not there")
    while words and words[0].startswith("-"):
        assert words[0].partition("=")[0] in docker_help(), words
        takes = re.search(rf"{re.escape(words[0])}(?:, --[\w-]+)? (\w+)", docker_help())
        words = words[2 if takes and "=" not in words[0] else 1 :]
    path: list[str] = []
    while words and re.search(rf"^  {re.escape(words[0])}\*? ", docker_help(*path), re.M) and len(path) < 2:
        path.append(words.pop(0))
    if words[:1] in (["buildx"], ["compose"], ["…"]):  # of plugins
        return
    assert path, f"docker has no command {words}"
    named = set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", docker_help(*path))) | {"--platform"}
    assert not flags_of(words) - named, path


def flags_of(words: list[str]) -> set[str]:
    """Up to the first argument that is none of a flag's: what follows an image belongs to somebody else."""
    found: set[str] = set()
    for before, word in zip(["", *words], words, strict=False):
        if re.match(r"--[a-z]", word):
            found.add(word.partition("=")[0])
        elif not before.startswith("-") and not word.startswith("-") and word != "…":
            break
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY], ids=ids)
def test_examples_can_be_typed(page: Path) -> None:
    for words in pages.shell_examples(page):
        try:
            check(words, whole=True)
        except (AssertionError, FlagError) as error:
            pytest.fail(f"{page.name}: {' '.join(words)}: {error}")


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY], ids=ids)
def test_commands_in_the_text_are_there(page: Path) -> None:
    for words in pages.inline_commands(page):
        try:
            check(words, whole=False)
        except (AssertionError, FlagError) as error:
            if "needs an argument" not in str(error):
                pytest.fail(f"{page.name}: `{' '.join(words)}`: {error}")


def test_flags_in_the_text_are_those_of_a_program() -> None:
    known = set(OTHERS)
    for entry in catalog.ENTRIES:
        known |= {name for each in load(entry).flags for name in each.names}
    known |= {name for each in GLOBAL_FLAGS for name in each.names}
    known |= {name for option in configuration.OPTIONS for name in option.flags} | {"--config-file", "--validate"}
    known |= {f"--{name}" for command in OCI.values() for option in command.options for name in option.names}
    known |= {f"--{name}" for flags in DOCKERFILE.values() for name in flags}
    unknown = {page.name: each for page in PAGES if page not in HISTORY and (each := pages.inline_flags(page) - known)}
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    for target in pages.links(page):
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), target
        assert not anchor or anchor in pages.anchors(to), target


def test_every_page_is_found_from_the_readme() -> None:
    seen = {ROOT / "README.md"}
    todo = list(seen)
    while todo:
        page = todo.pop()
        for target in pages.links(page):
            to = (page.parent / target.partition("#")[0]).resolve()
            if to.suffix == ".md" and to not in seen:
                seen.add(to)
                todo.append(to)
    assert set(PAGES) <= seen


def test_blocks_of_shell_are_shell() -> None:
    scripts = [block.text for page in PAGES for block in pages.blocks(page) if block.language == "sh"]
    assert len(scripts) > 5
    for script in scripts:
        done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, timeout=20, check=False)
        assert (done.returncode, done.stderr) == (0, ""), script


def test_what_is_not_there_would_be_seen() -> None:
    for line in ("dockyard frob", "dockyard run --frob mine", "dockyard ps x", "dockyardd --frob"):
        (words,) = pages.commands(line)
        with pytest.raises((AssertionError, FlagError)):
            check(words, whole=True)
    (words,) = pages.commands("FOO=1 /opt/bin/dockyard run -e 'a=b c' mine sh -c 'x; y' # z")
    assert words == ["dockyard", "run", "-e", "a=b c", "mine", "sh", "-c", "x; y"]


def test_the_client_s_page_has_every_command() -> None:
    table = (ROOT / "docs/cli.md").read_text().partition("\n## Commands\n")[2].partition("\n\nEvery command")[0]
    named: set[str] = set()
    for span in re.findall(r"`([^`]+)`", table):
        first, *others = span.split()
        named |= {f"{first} {each}" for each in others} if first in catalog.GROUPS else {first, *others}
    missing = [entry.path for entry in catalog.ENTRIES if not named & set(entry.paths)]
    assert not missing
    assert not {each for each in named if "…" not in each and catalog.find(each.split())[0] is None}


def test_docker_s_names_of_commands_are_here_or_explained() -> None:
    if not shutil.which("docker"):
        pytest.skip("the docker command says what it has, and is not there")
    ours = {path for entry in catalog.ENTRIES for path in entry.paths}
    for group in ("", *catalog.GROUPS):
        if group and f"Usage:  docker {group}" not in docker_help(group):
            continue
        for name in re.findall(r"^  ([a-z][\w-]*)\*?  +\S", docker_help(*[group][: bool(group)]), re.M):
            path = f"{group} {name}".strip()
            assert path in ours or path in catalog.GROUPS or path in ABSENT or group in ABSENT, path
            assert not (path in ours and path in ABSENT), path


def test_configurations_of_a_registry_are_read(tmp_path: Path) -> None:
    texts = [block.text for block in pages.blocks(ROOT / "docs/registry.md") if block.language == "yaml"]
    assert len(texts) == 3
    file = tmp_path / "registry.yaml"
    for text in texts:
        storage = "" if "storage:" in text else "storage: {filesystem: {root: /srv/registry}}\n"
        file.write_text(text + storage)
        assert registry.load(file, {}).storage.filesystem
    file.write_text(re.sub(r"filesystem: .*\n", "", texts[0]).replace("# s3:", "s3:"))
    found = registry.load(file, {}).storage.s3
    assert found and found.bucket == "images"


def test_other_configurations_are_read() -> None:
    (toml,) = [block.text for block in pages.blocks(ROOT / "docs/registries.md") if block.language == "toml"]
    assert hostsfile.parse(toml, "quay.io", "hosts.toml").mirrors
    texts = [block.text for block in pages.blocks(ROOT / "docs/runtime.md") if block.text.startswith("{")]
    assert texts
    for text in texts:
        assert configuration.parse_file(text, "daemon.json")
