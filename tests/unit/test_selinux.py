"""SELinux labels as values, relabelling without SELinux, what is told where there is none."""

from __future__ import annotations

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.engine.labels import Labelling, bound_files, implied_options
from dockyard.linux import attributes, selinux
from dockyard.model.container import ContainerConfig, HostConfig
from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.model.mounts import parse_bind
from dockyard.model.selinux import (
    CATEGORIES,
    NOBODYS,
    Contexts,
    Labels,
    Levels,
    SecurityContext,
    check_relabelling,
    label_options,
    make_labels,
    parse_contexts,
    policy_type,
    same_options,
    shared,
)
from dockyard.runtime import relabelling
from dockyard.runtime.bundle import BundleInput, Bundler, ExecInput, Host
from dockyard.runtime.relabelling import Policy
from dockyard.store.layout import Layout

PROCESS, FILE = "system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"
LAYERS = "system_u:object_r:container_ro_file_t:s0"
CONTEXTS = Contexts(*map(SecurityContext.parse, (PROCESS, FILE, LAYERS)))


def levels(seed: int = 1) -> Levels:
    return Levels(random.Random(seed).randrange)


# --- contexts ---------------------------------------------------------------------------------------------------------


def test_contexts() -> None:
    parsed = SecurityContext.parse("a:b:c:s0:c1,c2")
    assert parsed == ("a", "b", "c", "s0:c1,c2") and str(parsed) == "a:b:c:s0:c1,c2"
    assert str(SecurityContext.parse("a:b:c")) == "a:b:c"
    for wrong in ("", "a", "a:b", "a::c:s0", "a:b:c:"):
        with pytest.raises(ValueError, match="not an SELinux context"):
            SecurityContext.parse(wrong)


def test_the_policys_file_of_contexts() -> None:
    text = f'# comment\n; another\nprocess = "{PROCESS}"\n\nnonsense\n file="{FILE}"\nro_file = "{LAYERS}"\n'
    assert parse_contexts(text) == CONTEXTS
    without = parse_contexts(f'process = "{PROCESS}"\nfile = "{FILE}"')
    assert without is not None and without.layers == without.file
    assert parse_contexts(f'process = "{PROCESS}"\n#file = "{FILE}"\n') is None
    assert parse_contexts('process = "x"\nfile = "y"\n') is None
    assert policy_type("# SELINUXTYPE=no\nSELINUX=enforcing\n SELINUXTYPE = targeted \n") == "targeted"
    assert policy_type("") == ""


# --- levels -----------------------------------------------------------------------------------------------------------


def test_no_level_is_drawn_twice_until_it_is_released() -> None:
    pool = levels()
    drawn = [pool.draw() for _ in range(2000)]
    assert len(set(drawn)) == 2000 and NOBODYS not in drawn
    low, high = (int(part[1:]) for part in drawn[0].removeprefix("s0:").split(","))
    assert 0 <= low < high < CATEGORIES


def test_drawing_does_without_luck() -> None:
    """A generator that always says the same: the search finds what is free."""
    pool = Levels(lambda _below: 7)
    assert [pool.draw() for _ in range(3)] == ["s0:c0,c1", "s0:c0,c2", "s0:c1,c2"]
    fair = Levels(iter_of([3, 1, 1, 3, 5, 2]))
    assert [fair.draw(), fair.draw()] == ["s0:c1,c3", "s0:c2,c5"]


def iter_of(numbers: list[int]) -> Any:
    return lambda _below: numbers.pop(0)


def test_none_is_left() -> None:
    pool = Levels(lambda _below: 0)
    for high in range(CATEGORIES):
        for low in range(high):
            pool.reserve(f"u:r:t:s0:c{low},c{high}")
    with pytest.raises(SystemFailure, match="no SELinux level left"):
        pool.draw()
    pool.release("u:r:t:s0:c5,c9")
    assert pool.draw() == "s0:c5,c9"


def test_a_level_that_two_have_asked_for_stays_until_both_are_gone() -> None:
    pool = Levels(lambda _below: 0)
    label = "u:r:t:s0:c0,c1"
    pool.reserve(label)
    pool.reserve(label)
    pool.release(label)
    assert pool.draw() == "s0:c0,c2"
    pool.release(label)
    assert pool.draw() == "s0:c0,c1"
    pool.release("")
    pool.release("u:r:t")


# --- options ----------------------------------------------------------------------------------------------------------


def test_labels_of_a_container() -> None:
    one, two = (make_labels(CONTEXTS, [], levels(seed)) for seed in (1, 2))
    assert one.process.startswith(f"{PROCESS}:c") and one.mount.startswith(f"{FILE}:c")
    assert one.process.split(":", 3)[3] == one.mount.split(":", 3)[3]
    assert one != two
    assert one.shared == shared(one.mount) == FILE


def test_options() -> None:
    given_ = ["user:u", "role:r", "type:t", "level:s0:c1,c2", "filetype:f"]
    assert make_labels(CONTEXTS, given_, levels()) == Labels("u:r:t:s0:c1,c2", "u:object_r:f:s0:c1,c2")
    assert make_labels(CONTEXTS, ["type:t", "disable"], levels()) == Labels("", FILE.replace("s0", NOBODYS))
    without = Contexts(*(context._replace(level="") for context in CONTEXTS))
    assert make_labels(without, [], levels()) == Labels(PROCESS[:-3], FILE[:-3])
    assert shared(FILE[:-3]) == FILE[:-3] and shared("") == ""


@pytest.mark.parametrize("option", ["", "red", "type", "type:", "colour:red", "nested"])
def test_bad_options(option: str) -> None:
    with pytest.raises(InvalidArgument, match="Bad label option"):
        make_labels(CONTEXTS, [option], levels())


def test_a_level_that_was_asked_for_is_nobody_elses() -> None:
    pool = Levels(lambda _below: 0)
    make_labels(CONTEXTS, ["level:s0:c0,c1"], pool)
    assert make_labels(CONTEXTS, [], pool).mount == f"{FILE}:c0,c2"


@given(st.text(max_size=40))
def test_any_text_is_an_option_or_refused(option: str) -> None:
    try:
        labels = make_labels(CONTEXTS, [option], levels())
    except InvalidArgument:
        return
    assert labels.mount.startswith(("system_u:object_r:", option.partition(":")[2]))


def test_which_security_options_are_labels() -> None:
    given_ = ["label=type:t", "label:disable", "seccomp=unconfined", "no-new-privileges", "disable", "apparmor:label"]
    assert label_options(given_) == ["type:t", "disable", "disable"]


# --- what other settings bring along ----------------------------------------


def registry(**labels: str) -> Any:
    found = {name: SimpleNamespace(spec=SimpleNamespace(process_label=label)) for name, label in labels.items()}
    return SimpleNamespace(find=found.get)


@pytest.mark.parametrize("settings", [{"privileged": True}, {"ipc_mode": "host"}, {"pid_mode": "host"}])
def test_who_sees_the_host_has_no_label(settings: dict[str, Any]) -> None:
    assert implied_options(HostConfig(**settings), registry()) == ["label=disable"]
    assert implied_options(HostConfig(security_opt=["label=type:t"], **settings), registry()) == []
    assert implied_options(HostConfig(security_opt=["seccomp=x"], **settings), registry()) == ["label=disable"]


def test_who_shares_namespaces_shares_the_label() -> None:
    others = registry(a="u:r:t:s0:c1,c2", b="u:r:t:s0:c3,c4", c="")
    same = ["label=user:u", "label=role:r", "label=type:t", "label=level:s0:c1,c2"]
    assert same_options("u:r:t:s0:c1,c2") == same and same_options("") == []
    assert implied_options(HostConfig(ipc_mode="container:a"), others) == same
    assert implied_options(HostConfig(pid_mode="container:a", ipc_mode="container:a"), others) == same
    assert implied_options(HostConfig(pid_mode="container:a", ipc_mode="container:c"), others) == same
    assert implied_options(HostConfig(pid_mode="container:c", ipc_mode="private"), others) == []
    with pytest.raises(InvalidArgument, match="--ipc and --pid containers SELinux labels aren't the same"):
        implied_options(HostConfig(pid_mode="container:a", ipc_mode="container:b"), others)


# --- the engine's part ---------------------------------------------------


def container(**host: Any) -> Any:
    spec = SimpleNamespace(process_label="p", mount_label="m", host=HostConfig(**host))
    return SimpleNamespace(spec=spec)


def test_without_the_option_or_without_selinux_nothing_is_drawn() -> None:
    host = HostConfig(security_opt=["label=type:nosuch", "label=disable"])
    mounts = [parse_bind("/a:/b:Z"), parse_bind("/c:/d")]
    for policy, begins in ((Policy(), "SELinux is not supported"), (Policy(kernel=True), "SELinux is off")):
        labelling = Labelling(policy)
        assert labelling.draw(host) == Labels() and not labelling.enabled
        first, second = labelling.warnings(host, mounts)
        assert first.startswith(begins) and first.endswith("options z and Z have no effect on /b")
        assert second.endswith("label=type:nosuch has no effect")
    assert Labelling(Policy(True, CONTEXTS)).warnings(host, mounts) == []


def test_a_container_keeps_its_labels_while_the_kernel_has_selinux() -> None:
    assert Labelling(Policy(kernel=True)).of(container()) == Labels("p", "m")
    assert Labelling(Policy(kernel=True)).of(container(privileged=True)) == Labels("", "m")
    assert Labelling(Policy()).of(container()) == Labels()


def test_a_label_that_the_policy_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relabelling, "known", lambda label: "container_t" in label or "object_r" in label)
    labelling = Labelling(Policy(True, CONTEXTS))
    assert labelling.draw(HostConfig()).process
    assert labelling.draw(HostConfig(privileged=True)) == Labels("", FILE.replace("s0", NOBODYS))
    with pytest.raises(
        InvalidArgument, match=r"invalid SELinux label system_u:system_r:x:s0.*the policy does not know"
    ):
        labelling.draw(HostConfig(security_opt=["label=type:x"]))


def test_binds_of_a_step(tmp_path: Path) -> None:
    layout = Layout(tmp_path, tmp_path / "run")
    mounts = [
        {"type": "bind", "source": f"{layout.snapshots}/overlay/l/x", "options": ["bind", "ro"]},
        {"type": "bind", "source": f"{layout.snapshots}/overlay/c/y/bind-1", "options": ["bind"]},
        {"type": "bind", "source": f"{layout.builds}/mounts/z", "options": ["bind"]},
        {"type": "bind", "source": "/secret", "options": ["bind", "ro"]},
        {"type": "tmpfs", "source": "tmpfs", "options": []},
    ]
    found = bound_files(mounts, Labels("p", f"{FILE}:c1,c2"), layout)
    given = [(each["path"].removeprefix(str(tmp_path)), each["label"]) for each in found]
    own = f"{FILE}:c1,c2"
    assert given == [("/snapshots/overlay/c/y/bind-1", own), ("/builds/mounts/z", FILE), ("/secret", own)]


def test_the_bundle() -> None:
    bundler = Bundler(Host.probe())
    spec = BundleInput(
        id="1", name="c", config=ContainerConfig(), host=HostConfig(), args=["x"], process_label="p", mount_label="m"
    )
    config = bundler.make(spec).config
    assert config["process"]["selinuxLabel"] == "p" and config["linux"]["mountLabel"] == "m"
    for privileged in (False, True):  # as Docker
        assert bundler.exec_process(spec, ExecInput(["x"], privileged=privileged))["selinuxLabel"] == "p"


# --- relabelling ---------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/etc", "/home", "/usr", "/var/lib", "/etc/shadow", "/data", "/data/root"])
def test_what_keeps_its_label(path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_relabelling(path, ["/data/root"])
    assert (
        str(caught.value)
        == f"error setting label on mount source '{path}': SELinux relabeling of {path} is not allowed"
    )


def test_what_may_be_relabelled() -> None:
    for path in ("/srv/web", "/home/me", "/var/lib/app", "/etc/app", "/data/root2", "/data/root/below"):
        check_relabelling(path, ["/data/root"])
    with pytest.raises(InvalidArgument, match="relabeling content in /usr is not allowed"):
        check_relabelling("/usr/local/share", [])


def test_a_tree_is_labelled_from_below_and_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").touch()
    (tree / "d" / "f").touch()
    (tree / "link").symlink_to(outside)
    labelled: list[str] = []
    real = os.path.realpath

    def note(path: str, name: str, value: bytes, *, follow_symlinks: bool = True) -> None:
        directory, _, last = path.rpartition("/")
        place = real(path) if follow_symlinks else f"{real(directory)}/{last}"
        assert (name, value) == ("security.selinux", b"l\0")
        labelled.append(os.path.relpath(place, tmp_path))

    monkeypatch.setattr(os, "setxattr", note)
    relabelling.relabel(fds=(), items=[{"path": str(tree), "label": "l", "tree": True, "theirs": True}], keep=[])
    assert sorted(labelled[:-1]) == ["tree/d", "tree/d/f", "tree/link"] and labelled[-1] == "tree"
    labelled.clear()
    relabelling.relabel(fds=(), items=[{"path": str(tree), "label": "l"}], keep=[])
    assert labelled == ["tree"]
    with pytest.raises(InvalidArgument, match="relabeling of /etc is not allowed"):
        (tmp_path / "to-etc").symlink_to("/etc")
        item = {"path": str(tmp_path / "to-etc"), "label": "l", "tree": True, "theirs": True}
        relabelling.relabel(fds=(), items=[item], keep=[])
    with pytest.raises(InvalidArgument, match="is not allowed"):
        item = {"path": str(tmp_path), "label": "l", "tree": True, "theirs": True}
        relabelling.relabel(fds=(), items=[item], keep=[str(tree)])
    with pytest.raises(SystemFailure, match=r"mount source '.*missing': no such file"):
        relabelling.relabel(fds=(), items=[{"path": str(tmp_path / "missing"), "label": "l"}], keep=[])


# --- the kernel's files, where there is no SELinux ----------------------------------------


@pytest.mark.skipif(selinux.enabled(), reason="the kernel has SELinux")
def test_a_kernel_without_it() -> None:
    assert not selinux.enforcing() and not selinux.known(PROCESS)
    assert relabelling.find_policy(False) == Policy()
    asked = relabelling.find_policy(True)
    assert not asked.kernel and asked.contexts is None and "could not enable SELinux" in asked.warning


def test_an_attribute_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match="no such security attribute"):
        attributes.write(("nosuch", "other"), "x")


def test_the_mount_option_keeps_the_comma_of_the_level() -> None:
    assert selinux.mount_option("u:r:t:s0:c1,c2") == 'context="u:r:t:s0:c1,c2"'
