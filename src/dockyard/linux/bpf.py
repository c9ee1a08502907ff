"""A BPF program that decides which devices a v2 control group may use.

Owns: the translation of ordered allow and deny rules into a BPF_PROG_TYPE_CGROUP_DEVICE program, its loading and
attaching: bpf(2), Documentation/admin-guide/cgroup-v2.rst "Device controller". Knows no container.

The context is `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`: access_type holds the device type
in its low and the access in its high 16 bits. The program returns 1 to allow. Rules are looked at from the last to the
first: the last that matches decides; nothing matching denies.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

from dockyard.linux import abi
from dockyard.linux.calls import _syscall, failure

_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROG_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _F_ALLOW_MULTI = 15, 6, 2
_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}

_LOAD_W, _MOV_X, _MOV_K, _AND_K, _RSH_K, _JNE_K, _JNE_X, _EXIT = 0x61, 0xBF, 0xB7, 0x57, 0x77, 0x55, 0x5D, 0x95


def _instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | destination, offset, immediate)


def assemble(devices: list[dict[str, Any]]) -> bytes:
    """OCI `linux.resources.devices` -> BPF instructions."""
    program = [
        _instruction(_LOAD_W, 2, 1, 0),
        _instruction(_AND_K, 2, immediate=0xFFFF),  # r2 = type
        _instruction(_LOAD_W, 3, 1, 0),
        _instruction(_RSH_K, 3, immediate=16),  # r3 = access
        _instruction(_LOAD_W, 4, 1, 4),  # r4 = major
        _instruction(_LOAD_W, 5, 1, 8),  # r5 = minor
    ]
    for device in reversed(devices):
        rule = _rule(device)
        program += rule
        if len(rule) == 2:  # matches everything: the verifier refuses instructions that are never reached
            return b"".join(program)
    program += [_instruction(_MOV_K, 0, immediate=0), _instruction(_EXIT)]
    return b"".join(program)


def _rule(device: dict[str, Any]) -> list[bytes]:
    """One rule: tests that jump behind it when they fail, then its verdict."""
    allow = bool(device.get("allow"))
    access = sum(_ACCESS[letter] for letter in set(device.get("access") or "rwm"))
    tests: list[tuple[int, ...]] = []  # (code, register, immediate); filled with jumps below
    body: list[bytes | tuple[int, int, int]] = []
    if device.get("type") in _TYPES:
        tests.append((_JNE_K, 2, _TYPES[device["type"]]))
    for register, key in ((4, "major"), (5, "minor")):
        number = device.get(key)
        if number is not None and number >= 0:
            tests.append((_JNE_K, register, number))
    body.extend((code, register, value) for code, register, value in tests)
    if access != 7:
        body.append(_instruction(_MOV_X, 1, 3))
        if allow:  # every access asked for must be among the allowed ones
            body.append(_instruction(_AND_K, 1, immediate=access))
            body.append((_JNE_X, 1, 3))
        else:  # any access asked for that is denied denies
            body.append(_instruction(_AND_K, 1, immediate=access))
            body.append((0x15, 1, 0))  # JEQ r1, 0: none of them
    verdict = [_instruction(_MOV_K, 0, immediate=int(allow)), _instruction(_EXIT)]
    out: list[bytes] = []
    for at, item in enumerate(body):
        if isinstance(item, bytes):
            out.append(item)
            continue
        code, register, value = item
        jump = len(body) - at - 1 + len(verdict)
        if code == _JNE_X:
            out.append(_instruction(code, register, value, jump))
        else:
            out.append(_instruction(code, register, 0, jump, value))
    return out + verdict


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(_syscall(abi.NR["bpf"], command, buffer, ctypes.c_size_t(len(attributes))))
    if result < 0:
        raise failure("bpf", command)
    return result


def attach_device_filter(directory: str, devices: list[dict[str, Any]]) -> None:
    """Load the program for `devices` and attach it to the cgroup `directory`; it lives as long as the directory."""
    code = assemble(devices)
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    load = struct.pack(
        "<IIQQIIQII16s",
        _PROG_TYPE_CGROUP_DEVICE,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
        b"dockyard_dev",
    )
    program = _bpf(_PROG_LOAD, load)
    try:
        cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _bpf(_PROG_ATTACH, struct.pack("<IIII", cgroup, program, _ATTACH_CGROUP_DEVICE, _F_ALLOW_MULTI))
        finally:
            os.close(cgroup)
    finally:
        os.close(program)
