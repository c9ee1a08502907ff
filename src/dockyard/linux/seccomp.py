"""seccomp: OCI filters into BPF programs, and loading such programs.

Owns: `compile` (through libseccomp, in the engine's process only) and `prepare`/`install`/`load`/`load_listening`
(seccomp(2), in the container's process, without libseccomp). Does not own: which filter a container gets
(`runtime.profiles`), who is told of notified calls (`runtime.oci.notifying`).

Loading imports nothing and opens nothing, so it may come after pivot_root. Without no_new_privs it needs CAP_SYS_ADMIN
and therefore comes before capabilities are dropped; with it, as late as possible.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dockyard.linux import abi

FLAGS: Final = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
_NEW_LISTENER: Final = 8
NOTIFY: Final = "SCMP_ACT_NOTIFY"

# enum scmp_compare of seccomp.h
OPERATORS: Final = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
# SECCOMP_RET_* of linux/seccomp.h; the low 16 bits of ERRNO and TRACE are data.
ACTIONS: Final = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_WITH_DATA: Final = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
# OCI architecture -> AUDIT_ARCH_* (linux/audit.h), which is also libseccomp's token; x32 alone has a token of its own.
ARCHITECTURES: Final = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_MIPS": 0x00000008,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x00000014,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x00000016,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_PARISC": 0x0000000F,
    "SCMP_ARCH_PARISC64": 0x8000000F,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
}
_X32: Final = 0x4000003E
_X32_BIT: Final = 0x40000000
_NATIVE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_MODE_FILTER: Final = 1
_ENOSYS: Final = 38
_EFAULT: Final = 14
_ATTR_OPTIMIZE: Final = 8

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_nr = ctypes.c_long(abi.NR["seccomp"])


class SeccompError(Exception):
    """The filter cannot be compiled; the message names the field."""


class Prepared(ctypes.Structure):
    """struct sock_fprog; keeps its program alive."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def prepare(program: bytes) -> Prepared:
    """Build what `install` passes to the kernel. `program`: an array of struct sock_filter (8 bytes each)."""
    return Prepared(len(program) // 8, program)


def install(prepared: Prepared, flags: int = 0) -> None:
    """seccomp(SECCOMP_SET_MODE_FILTER) for the calling thread. Raises OSError (EACCES: neither CAP_SYS_ADMIN nor
    no_new_privs; EINVAL: not a valid program or flag)."""
    if _syscall(_nr, ctypes.c_uint(_MODE_FILTER), ctypes.c_uint(flags), ctypes.byref(prepared)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp(SECCOMP_SET_MODE_FILTER)")


def load(program: bytes, flags: int = 0) -> None:
    """`install(prepare(program), flags)`."""
    install(prepare(program), flags)


def load_listening(program: bytes, flags: int = 0) -> int:
    """As `load`; returns the descriptor on which notified calls are received (seccomp_unotify(2)), close-on-exec."""
    prepared = prepare(program)
    fd = int(_syscall(_nr, ctypes.c_uint(_MODE_FILTER), ctypes.c_uint(flags | _NEW_LISTENER), ctypes.byref(prepared)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER)")
    return fd


def supported_flags() -> list[str]:
    """The names of FLAGS that this kernel has: with no program at all it complains of unknown flags first (EINVAL), of
    the program then (EFAULT). Nothing is loaded."""
    found = []
    for name, flag in FLAGS.items():
        needed = _NEW_LISTENER if name.endswith("_RECV") else 0
        _syscall(_nr, ctypes.c_uint(_MODE_FILTER), ctypes.c_uint(flag | needed), None)
        if ctypes.get_errno() == _EFAULT:
            found.append(name)
    return found


def notifies(profile: Mapping[str, Any]) -> bool:
    """Whether an OCI `linux.seccomp` object has calls that a listener is asked about."""
    return any(rule.get("action") == NOTIFY for rule in profile.get("syscalls") or ())


def flags_of(profile: Mapping[str, Any]) -> int:
    """The flags of an OCI `linux.seccomp` object for `load`. Not given means SPEC_ALLOW, as runc has it: the mitigation
    for speculative store bypass costs much and the kernel itself gave it up as the default. Raises SeccompError."""
    names = profile.get("flags")
    if names is None:
        return FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    flags = 0
    for name in names:
        if name not in FLAGS:
            raise SeccompError(f"linux.seccomp.flags: {name} is not supported")
        flags |= FLAGS[name]
    if not notifies(profile):
        flags &= ~FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]  # the kernel has it for listeners only
    return flags & ~FLAGS["SECCOMP_FILTER_FLAG_TSYNC"]  # one thread, and TSYNC changes what is returned


def compile(profile: Mapping[str, Any], *, listening: bool = False) -> bytes:
    """The BPF program (array of struct sock_filter) for an OCI `linux.seccomp` object.

    System calls that libseccomp does not know are left out, as runc does. Those newer than the newest that the profile
    names get ENOSYS instead of the default errno, so that libraries fall back to older calls.
    `listening`: there is a listener for SCMP_ACT_NOTIFY. Raises SeccompError naming the field.
    """
    if not listening and (profile.get("listenerPath") or notifies(profile)):
        field = "listenerPath" if profile.get("listenerPath") else f"syscalls: {NOTIFY}"
        raise SeccompError(f"linux.seccomp.{field}: notification listeners are not supported")
    if profile.get("defaultAction") == NOTIFY:
        raise SeccompError(f"linux.seccomp.defaultAction: {NOTIFY} cannot be the default action")
    return _Compiler(profile).run()


class _Compiler:
    """One compilation; holds libseccomp's context."""

    def __init__(self, profile: Mapping[str, Any]) -> None:
        self._profile = profile
        self._lib = library()
        self._native = _NATIVE.get(os.uname().machine, 0)
        self._default = _action(profile.get("defaultAction"), profile.get("defaultErrnoRet"), "defaultAction")
        self._named: set[bytes] = set()

    def run(self) -> bytes:
        context = self._lib.seccomp_init(self._default)
        if not context:
            raise SeccompError("linux.seccomp.defaultAction: refused by libseccomp")
        try:
            self._context = ctypes.c_void_p(context)
            # An architecture that is not listed stays libseccomp's default, kill: with an allowing default action it
            # would otherwise be the way around every rule.
            self._lib.seccomp_attr_set(self._context, _ATTR_OPTIMIZE, 2)  # a binary tree; absent before 2.5
            architectures = self._add_architectures()
            for index, rule in enumerate(self._profile.get("syscalls") or ()):
                self._add_rule(index, rule)
            program = self._export()
        finally:
            self._lib.seccomp_release(ctypes.c_void_p(context))
        return self._newer_calls(architectures) + program

    def _add_architectures(self) -> list[int]:
        wanted = [_architecture(name) for name in self._profile.get("architectures") or ()]
        for token in wanted:
            if self._lib.seccomp_arch_exist(self._context, token) != 0:
                self._check(self._lib.seccomp_arch_add(self._context, token), "architectures")
        return wanted if self._native in wanted else [self._native, *wanted]

    def _add_rule(self, index: int, rule: Mapping[str, Any]) -> None:
        field = f"syscalls[{index}]"
        action = _action(rule.get("action"), rule.get("errnoRet"), f"{field}.action")
        if not rule.get("names"):
            raise SeccompError(f"linux.seccomp.{field}.names: missing")
        sets = [_comparisons(group, field) for group in _argument_groups(rule.get("args") or ())]
        for name in map(str.encode, rule["names"]):
            self._named.add(name)
            number = self._lib.seccomp_syscall_resolve_name(name)
            if number == -1 or action == self._default:
                continue  # unknown to libseccomp; or a rule that says nothing, which libseccomp refuses
            for compare in sets:
                status = self._lib.seccomp_rule_add_array(self._context, action, number, len(compare), compare)
                self._check(status, f"{field} ({name.decode()})")

    def _export(self) -> bytes:
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            self._check(self._lib.seccomp_export_bpf(self._context, fd), "syscalls")
            size = os.lseek(fd, 0, os.SEEK_END)
            return os.pread(fd, size, 0)
        finally:
            os.close(fd)

    def _newer_calls(self, architectures: Sequence[int]) -> bytes:
        """Instructions that go before libseccomp's: return ENOSYS for numbers beyond the newest that the profile
        names. Only where the default is an errno other than that."""
        if self._default & 0xFFFF0000 != ACTIONS["SCMP_ACT_ERRNO"] or self._default & 0xFFFF == _ENOSYS:
            return b""
        newest = {token: self._newest(token) for token in architectures}
        return enosys_prefix({token: number for token, number in newest.items() if number > 0})

    def _newest(self, token: int) -> int:
        resolve = self._lib.seccomp_syscall_resolve_name_arch
        return max((int(resolve(token, name)) for name in self._named), default=-1)

    def _check(self, status: int, field: str) -> None:
        if status < 0:
            raise SeccompError(f"linux.seccomp.{field}: refused by libseccomp (errno {-status})")


def enosys_prefix(newest: Mapping[int, int]) -> bytes:
    """BPF that returns ENOSYS if the call's number is above `newest[architecture]`, and else falls through.

    For each architecture:  if arch == A: if nr > N: return ENOSYS.  x32 shares AUDIT_ARCH with x86-64 and is told
    by bit 30 of the number, so its numbers have a limit of their own there.
    """
    load, jeq, jgt, jge, ret, ja = 0x20, 0x15, 0x25, 0x35, 0x06, 0x05
    x86_64 = ARCHITECTURES["SCMP_ARCH_X86_64"]

    def op(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
        return struct.pack("=HBBI", code, jt, jf, k)

    enosys = op(ret, ACTIONS["SCMP_ACT_ERRNO"] | _ENOSYS)
    program = b""
    for token, number in newest.items():
        if token == _X32:
            continue
        body = op(load, 0)  # seccomp_data.nr
        if token == x86_64:
            x32_newest = newest.get(_X32)
            limit = op(jgt, x32_newest | _X32_BIT, 1, 2) if x32_newest is not None else op(ja, 2)
            # nr >= bit 30 -> the x32 limit (or none), else the 64-bit limit
            body += op(jge, _X32_BIT, 0, 1) + limit + op(jgt, number, 0, 1) + enosys
        else:
            body += op(jgt, number, 0, 1) + enosys
        program += op(load, 4) + op(jeq, token, 0, len(body) // 8) + body  # seccomp_data.arch
    return program


def library() -> ctypes.CDLL:
    """libseccomp.so.2 with the types of what is used here. Raises SeccompError if it is not installed."""
    try:
        lib = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise SeccompError("libseccomp.so.2 cannot be loaded: install libseccomp (Debian: libseccomp2)") from None
    lib.seccomp_init.argtypes, lib.seccomp_init.restype = (ctypes.c_uint32,), ctypes.c_void_p
    lib.seccomp_release.argtypes, lib.seccomp_release.restype = (ctypes.c_void_p,), None
    lib.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    lib.seccomp_arch_exist.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    lib.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    lib.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    lib.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    lib.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Compare),
    )
    lib.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return lib


def syscall_number(architecture: str, name: str) -> int:
    """The number of a system call on an OCI architecture ("SCMP_ARCH_AARCH64"), by libseccomp; negative: none."""
    return int(library().seccomp_syscall_resolve_name_arch(_architecture(architecture), name.encode()))


def _action(name: Any, errno_ret: Any, field: str) -> int:
    if name not in ACTIONS:
        raise SeccompError(f"linux.seccomp.{field}: unknown or unsupported action {name!r}")
    value = ACTIONS[name]
    if name in _WITH_DATA:
        value |= (1 if errno_ret is None else int(errno_ret)) & 0xFFFF  # EPERM
    return value


def _architecture(name: Any) -> int:
    if name not in ARCHITECTURES:
        raise SeccompError(f"linux.seccomp.architectures: unknown architecture {name!r}")
    return ARCHITECTURES[name]


def _argument_groups(args: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Conditions on different arguments must all hold; if an argument occurs twice, each condition is a rule of its own
    (any may hold), since libseccomp takes one comparison an argument. This is how runc reads such rules."""
    indexes = [arg.get("index") for arg in args]
    if len(set(indexes)) == len(indexes):
        return [list(args)]
    return [[arg] for arg in args]


def _comparisons(args: Sequence[Mapping[str, Any]], field: str) -> ctypes.Array[_Compare]:
    array = (_Compare * len(args))()
    for slot, arg in zip(array, args, strict=True):
        index, operator = arg.get("index"), arg.get("op")
        if operator not in OPERATORS:
            raise SeccompError(f"linux.seccomp.{field}.args.op: unknown operator {operator!r}")
        if not isinstance(index, int) or not 0 <= index <= 5:
            raise SeccompError(f"linux.seccomp.{field}.args.index: {index!r} is not 0 to 5")
        slot.arg, slot.op = index, OPERATORS[operator]
        slot.datum_a, slot.datum_b = int(arg.get("value", 0)), int(arg.get("valueTwo") or 0)
    return array
