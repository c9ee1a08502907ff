"""seccomp: compiled filters behave as their profile says; system call numbers are libseccomp's."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from collections.abc import Sequence
from typing import Any

import pytest

from dockyard.linux import abi, seccomp
from dockyard.linux.seccomp import SeccompError
from dockyard.model.errors import InvalidArgument
from dockyard.runtime import profiles
from dockyard.runtime.bundle.security import DEFAULT_CAPABILITIES

ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
NATIVE = ARCHITECTURES.get(os.uname().machine, "")
pytestmark = pytest.mark.skipif(not NATIVE, reason="x86-64 and arm64 only")

_NEW_PRIVS = 38  # PR_SET_NO_NEW_PRIVS


def number(name: str) -> int:
    return seccomp.syscall_number(NATIVE, name)


def errnos(program: bytes, calls: Sequence[tuple[int, ...]]) -> list[int]:
    """errno (0: success) of each system call (number, arguments…), made by a child under the filter."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        libc.prctl(_NEW_PRIVS, 1, 0, 0, 0)
        seccomp.load(program, 0)
        found = []
        for call in calls:
            arguments = [ctypes.c_long(value) for value in call]
            found.append(ctypes.get_errno() if libc.syscall(*arguments) < 0 else 0)
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"child ended with {status}"
    found: list[int] = json.loads(text)
    return found


def allowing(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [NATIVE], "syscalls": list(rules), **more}


def default(capabilities: Sequence[str] = DEFAULT_CAPABILITIES, machine: str = "") -> dict[str, Any]:
    found = profiles.resolve(profiles.default_profile(), capabilities, machine or os.uname().machine, (6, 1))
    assert found is not None
    return found


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_system_call_numbers_are_libseccomps(machine: str) -> None:
    assert {"clone3", "mount_setattr", "seccomp"} <= set(abi.SYSCALLS[machine])
    for name, value in abi.SYSCALLS[machine].items():
        assert seccomp.syscall_number(ARCHITECTURES[machine], name) == value, name


def test_errno_of_a_rule_and_of_arguments() -> None:
    program = seccomp.compile(
        allowing(
            {"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENODEV},
            {
                "names": ["socket"],
                "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}],
            },
        )
    )
    calls = [(number("getpid"),), (number("getppid"),), (number("socket"), 1, 2, 0), (number("socket"), 1, 1, 0)]
    assert errnos(program, calls) == [errno.ENODEV, 0, errno.EPERM, 0]


def test_two_conditions_on_one_argument_are_alternatives() -> None:
    args = [{"index": 0, "value": family, "op": "SCMP_CMP_EQ"} for family in (1, 2)]
    program = seccomp.compile(allowing({"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": args}))
    calls = [(number("socket"), family, 2, 0) for family in (1, 2, 16)]
    assert errnos(program, calls) == [errno.EPERM, errno.EPERM, 0]


def test_masked_equality() -> None:
    arg = {"index": 0, "value": 0xF0, "valueTwo": 0x10, "op": "SCMP_CMP_MASKED_EQ"}
    program = seccomp.compile(allowing({"names": ["umask"], "action": "SCMP_ACT_ERRNO", "args": [arg]}))
    assert errnos(program, [(number("umask"), 0x13), (number("umask"), 0x23)]) == [errno.EPERM, 0]


def test_names_that_nobody_knows_are_left_out() -> None:
    assert seccomp.compile(allowing({"names": ["no_such_call", "getpid"], "action": "SCMP_ACT_ERRNO"}))


def test_calls_newer_than_the_profile_are_enosys_and_older_ones_denied() -> None:
    program = seccomp.compile(default())
    assert errnos(program, [(470,), (number("keyctl"), 0, 0, 0, 0, 0)]) == [errno.ENOSYS, errno.EPERM]


def test_x32_calls_are_not_taken_for_calls_newer_than_the_profile() -> None:
    """BPF interpreted here, since most kernels have no x32."""
    x86_64, bit = 0xC000003E, 0x40000000
    with_x32 = seccomp.enosys_prefix({x86_64: 100, 0x4000003E: 50})
    without = seccomp.enosys_prefix({x86_64: 100})
    enosys = 0x00050000 | errno.ENOSYS
    assert [_interpret(with_x32, x86_64, nr) for nr in (100, 101, bit | 50, bit | 51)] == [None, enosys, None, enosys]
    assert [_interpret(without, x86_64, nr) for nr in (100, 101, bit | 50, bit | 51)] == [None, enosys, None, None]
    arm = seccomp.enosys_prefix({x86_64: 100, 0x40000003: 60})
    assert [_interpret(arm, 0x40000003, nr) for nr in (60, 61)] == [None, enosys]
    assert _interpret(arm, 0x12345678, 5000) is None


def _interpret(program: bytes, architecture: int, nr: int, argument: int = 0) -> int | None:
    """Run the BPF instructions that filters use; None: fell off its end, into the filter."""
    at, accumulator = 0, 0
    while at < len(program) // 8:
        code = int.from_bytes(program[at * 8 : at * 8 + 2], "little")
        true, false = program[at * 8 + 2], program[at * 8 + 3]
        k = int.from_bytes(program[at * 8 + 4 : at * 8 + 8], "little")
        if code == 0x20:  # of struct seccomp_data: nr, arch, then the low half of the first argument
            accumulator = {0: nr, 4: architecture, 16: argument}.get(k, 0)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x06:
            return k
        elif code == 0x05:
            at += k
        else:
            tests = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: accumulator & k}
            at += true if tests[code] else false
        at += 1
    assert at == len(program) // 8, "a jump went beyond the program"
    return None


@pytest.mark.parametrize(
    ("profile", "field"),
    [
        ({"defaultAction": "SCMP_ACT_NO"}, "defaultAction"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["VAX"]}, "architectures"),
        (allowing({"names": ["getpid"], "action": "NO"}), r"syscalls\[0\]\.action"),
        (allowing({"names": [], "action": "SCMP_ACT_ERRNO"}), r"syscalls\[0\]\.names"),
        (
            allowing({"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "X"}]}),
            r"args\.op",
        ),
        (
            allowing(
                {"names": ["dup"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 9, "value": 1, "op": "SCMP_CMP_EQ"}]}
            ),
            r"args\.index",
        ),
        (allowing(listenerPath="/run/x"), "listenerPath"),
    ],
)
def test_a_bad_filter_names_the_field(profile: dict[str, Any], field: str) -> None:
    with pytest.raises(SeccompError, match=rf"linux\.seccomp\..*{field}"):
        seccomp.compile(profile)


def test_flags() -> None:
    assert seccomp.flags_of({}) == 4
    assert seccomp.flags_of({"flags": []}) == 0
    assert seccomp.flags_of({"flags": ["SECCOMP_FILTER_FLAG_LOG"]}) == 2
    with pytest.raises(SeccompError, match=r"linux\.seccomp\.flags: NO"):
        seccomp.flags_of({"flags": ["NO"]})


def test_a_deny_list_is_not_open_to_another_architecture() -> None:
    """With an allowing default, 32-bit calls must not be the way around: they are killed, libseccomp's default."""
    program = seccomp.compile(allowing({"names": ["getpid"], "action": "SCMP_ACT_ERRNO"}))
    kill, allow = 0, 0x7FFF0000
    assert _interpret_all(program, 0x40000028 if NATIVE.endswith("64") else 0, 20) == kill
    assert _interpret_all(program, 0xC000003E if "X86" in NATIVE else 0xC00000B7, 1) == allow


def _interpret_all(program: bytes, architecture: int, nr: int, argument: int = 0) -> int:
    found = _interpret(program, architecture, nr, argument)
    assert found is not None
    return found


# Statement S14, the default profile.


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_s14_the_default_profile_has_no_socketcall_and_no_io_uring(machine: str) -> None:
    names = {name for rule in default(machine=machine)["syscalls"] for name in rule["names"]}
    denied = {"socketcall", "io_uring_setup", "userfaultfd", "keyctl", "bpf", "unshare", "setns", "mount", "kexec_load"}
    assert not names & denied
    assert {"read", "openat2", "socket", "clone"} <= names


def test_s14_the_default_filter_denies() -> None:
    new_user = 0x10000000
    calls = {
        "AF_ALG": (number("socket"), 38, 5, 0),
        "AF_VSOCK": (number("socket"), 40, 1, 0),
        "keyctl": (number("keyctl"), 0, 0, 0, 0, 0),
        "add_key": (number("add_key"), 0, 0, 0, 0, 0),
        "bpf": (number("bpf"), 0, 0, 0),
        "userfaultfd": (number("userfaultfd"), 0),
        "io_uring_setup": (number("io_uring_setup"), 1, 0),
        "unshare": (number("unshare"), new_user),
        "clone NEWUSER": (number("clone"), new_user | 17, 0, 0, 0, 0),
        "mount": (number("mount"), 0, 0, 0, 0, 0),
    }
    results = dict(zip(calls, errnos(seccomp.compile(default()), list(calls.values())), strict=True))
    assert results == dict.fromkeys(calls, errno.EPERM)
    assert errnos(seccomp.compile(default()), [(number("clone3"), 0, 0)]) == [errno.ENOSYS]


def test_the_default_filter_allows_what_programs_need() -> None:
    calls = [
        (number("socket"), 2, 1, 0),
        (number("socket"), 1, 1, 0),
        (number("getuid"),),
        (number("umask"), 0o22),
        (number("memfd_create"), 0, 0),  # EFAULT: it was let through
    ]
    assert errnos(seccomp.compile(default()), calls) == [0, 0, 0, 0, errno.EFAULT]


def test_capabilities_open_what_they_stand_for() -> None:
    with_admin = default([*DEFAULT_CAPABILITIES, "CAP_SYS_ADMIN"])
    names = {name for rule in with_admin["syscalls"] for name in rule["names"]}
    assert {"mount", "unshare", "setns", "bpf"} <= names
    assert errnos(seccomp.compile(with_admin), [(number("clone3"), 0, 0)]) == [errno.EINVAL]


@pytest.mark.skipif(NATIVE != "SCMP_ARCH_X86_64", reason="32-bit x86 is a second architecture of x86-64")
def test_s14_32_bit_programs_cannot_reach_sockets_through_socketcall() -> None:
    """socketcall's arguments lie in memory, where no filter sees them; moby's own profile lets it pass."""
    i386, socketcall, socket, getpid = 0x40000003, 102, 359, 20
    eperm, allow = 0x00050000 | errno.EPERM, 0x7FFF0000
    program = seccomp.compile(default())
    assert _interpret_all(program, i386, socketcall) == eperm
    assert _interpret_all(program, i386, getpid) == allow
    with_it = default()
    with_it["syscalls"].append({"names": ["socketcall"], "action": "SCMP_ACT_ALLOW"})
    assert _interpret_all(seccomp.compile(with_it), i386, socketcall) == allow
    assert _interpret_all(program, i386, socket, 38) == eperm
    assert _interpret_all(program, i386, socket, 2) == allow


# The profile format.


def test_a_profile_is_selected_by_architecture_capability_and_kernel() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"name": "getpid", "action": "SCMP_ACT_ALLOW"},
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
            {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
            {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHOWN", "CAP_KILL"]}},
            {"names": ["e"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}},
        ],
    }

    def names(machine: str, kernel: tuple[int, int], *caps: str) -> set[str]:
        found = profiles.resolve(profile, caps, machine, kernel)
        assert found is not None
        return {name for rule in found["syscalls"] for name in rule["names"]}

    assert names("x86_64", (6, 1)) == {"getpid", "e"}
    assert names("aarch64", (6, 2), "CAP_CHOWN") == {"getpid", "a", "b", "c"}
    assert names("x86_64", (6, 10), "CAP_CHOWN", "CAP_KILL") == {"getpid", "c", "d"}
    found = profiles.resolve(profile, (), "x86_64", (6, 1))
    assert found is not None and found["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Decoding seccomp profile failed: "),
        ("[]", "Decoding seccomp profile failed: not a JSON object"),
    ],
)
def test_undecodable_profiles(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        profiles.decode(text)


def test_contradictions_in_a_profile() -> None:
    both = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [NATIVE], "archMap": [{"architecture": NATIVE}]}
    with pytest.raises(InvalidArgument, match="use either 'architectures' or 'archMap'"):
        profiles.resolve(both, (), "x86_64", (6, 1))
    rule = {"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}
    with pytest.raises(InvalidArgument, match="use either 'name' or 'names'"):
        profiles.resolve({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}, (), "x86_64", (6, 1))
