"""config.json with values of other types than the specification's: each is refused by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockyard.runtime.oci import configuration, shape
from dockyard.runtime.oci.errors import OciError

CONFIG: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "args": ["true"],
        "cwd": "/",
        "env": ["A=b"],
        "user": {"uid": 0, "gid": 0, "additionalGids": [1]},
        "capabilities": {"bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 1},
    },
    "root": {"path": "rootfs"},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
    "annotations": {"a": "b"},
    "hooks": {"poststop": [{"path": "/bin/true", "args": ["true"], "timeout": 1}]},
    "linux": {
        "namespaces": [{"type": "mount"}, {"type": "pid"}],
        "devices": [{"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "fileMode": 438}],
        "sysctl": {"kernel.domainname": "x"},
        "maskedPaths": ["/proc/kcore"],
        "resources": {"memory": {"limit": 1 << 27}, "devices": [{"allow": False, "access": "rwm"}]},
    },
}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("process",), [], "process: must be an object"),
        (("process", "args"), [None], r"process.args\[0\]: must be a string"),
        (("process", "env", 0), "A=\0", r"process.env\[0\]: must not contain NUL"),
        (("process", "capabilities", "bounding", 0), {}, r"process.capabilities.bounding\[0\]: must be a string"),
        (("process", "ioPriority", "priority"), "high", "process.ioPriority.priority: must be a whole number"),
        (("process", "user", "uid"), True, "process.user.uid: must be a whole number"),
        (("linux", "namespaces", 1), "pid", r"linux.namespaces\[1\]: must be an object"),
        (("linux", "namespaces", 0), None, r"linux.namespaces\[0\]: must be an object"),
        (("linux", "sysctl", "kernel.domainname"), 5, "linux.sysctl.kernel.domainname: must be a string"),
        (("linux", "resources", "memory", "limit"), 1e9, "linux.resources.memory.limit: must be a whole number"),
        (("linux", "resources", "memory", "limit"), 10**30, "linux.resources.memory.limit: is out of range"),
        (("annotations", "\ud800"), "x", "annotations: names must not contain"),
        (("mounts", 0, "options"), "ro", r"mounts\[0\].options: must be a list"),
    ],
)
def test_wrong_types_are_named(path: tuple[Any, ...], value: Any, said: str) -> None:
    with pytest.raises(OciError, match=said):
        configuration.check_config(changed(path, value))


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    at: Any = config
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return config


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in members:
        found += places(each, (*path, key))
    return found


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("\ud800")
JUNK = st.recursive(SCALARS, lambda e: st.lists(e, max_size=2) | st.dictionaries(st.text(max_size=2), e, max_size=2))


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(places(CONFIG)), value=JUNK)
def test_whatever_stands_anywhere_is_taken_or_refused(path: tuple[Any, ...], value: Any) -> None:
    try:
        configuration.check_config(changed(path, value))
    except OciError as error:
        assert error.message


def test_what_is_not_in_the_specification_is_not_looked_at() -> None:
    shape.check(changed(("process", "future"), [{"x": None}]), shape.CONFIG)
    shape.check(changed(("linux", "devices"), None), shape.CONFIG)
