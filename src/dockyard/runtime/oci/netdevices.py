"""linux.netDevices: the host's network devices that a container is given.

Owns: which may be given, moving them with their lasting addresses, putting them back when a later one cannot be moved.
Does not own: what becomes of them at the container's end (the kernel takes physical ones back, others go with the
namespace, and the specification forbids more). Source: OCI runtime-spec 1.3, config-linux.md, "Network Devices".
"""

from __future__ import annotations

import os
from typing import Any, Final

from dockyard.linux import abi, process, rtnetlink
from dockyard.linux.netlink import Netlink
from dockyard.linux.rtnetlink import Link
from dockyard.runtime.oci.errors import OciError
from dockyard.runtime.oci.members import get

_FIELD: Final = "linux.netDevices"
_LONGEST: Final = 15  # IFNAMSIZ without its NUL


def check(linux: dict[str, Any], kinds: set[str]) -> None:
    """Raises OciError naming the field."""
    devices = get(linux, "netDevices", dict, _FIELD, optional=True)
    if devices and "network" not in kinds:
        raise OciError(f"{_FIELD}: needs a network namespace in linux.namespaces")
    for host, device in devices.items():
        field = f"{_FIELD}.{host}"
        if not isinstance(device, dict):
            raise OciError(f"{field}: must be an object")
        name = get(device, "name", str, f"{field}.name", optional=True) or host
        plain = name.replace("%d", "", 1)
        if not 0 < len(name) <= _LONGEST or name in (".", "..") or set(plain) & set("/:%") or not plain.isprintable():
            raise OciError(f"{field}.name: {name!r} is not a name of a network device")
        if " " in plain:
            raise OciError(f"{field}.name: {name!r} is not a name of a network device")


def move(devices: dict[str, Any], pid: int) -> None:
    """From our network namespace into that of a process. All or none. Raises OciError, OSError."""
    ours = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(ours).st_ino == os.fstat(theirs).st_ino:
            raise OciError(f"{_FIELD}: the container has the runtime's own network namespace")
        with Netlink() as host, _inside(theirs, ours) as container:
            present = {link.name: link for link in rtnetlink.links(host)}
            for name in devices:
                if name not in present:
                    raise OciError(f"{_FIELD}.{name}: no such network device")
            moved: list[tuple[Link, int, list[bytes]]] = []
            try:
                for name, device in devices.items():
                    link = present[name]
                    addresses = rtnetlink.lasting_addresses(host, link.ifindex)
                    wanted = (device or {}).get("name") or name
                    index, problem = _move_one(host, container, link.ifindex, theirs, wanted)
                    if index:
                        moved.append((link, index, addresses))
                    if problem:
                        raise OciError(f"{_FIELD}.{name}: cannot be moved into the container as {wanted}: {problem}")
                    container.batch([rtnetlink.restore_address(index, each) for each in addresses])
                    container.batch([rtnetlink.set_link(index, up=True)])
            except BaseException:
                _put_back(host, container, moved, ours)
                raise
    finally:
        os.close(ours)
        os.close(theirs)


def _inside(theirs: int, ours: int) -> Netlink:
    """A socket of another network namespace: sockets stay where they were made."""
    process.setns(theirs, abi.CLONE_NEWNET)
    try:
        return Netlink()
    finally:
        process.setns(ours, abi.CLONE_NEWNET)


def _move_one(source: Netlink, target: Netlink, index: int, namespace: int, name: str) -> tuple[int, str]:
    """Its index in the other namespace, 0 if it has not come there; what went wrong: a device whose name is taken has
    moved all the same."""
    before = {each.ifindex for each in rtnetlink.links(target)}
    problem = ""
    try:
        source.batch([rtnetlink.move_link(index, namespace, name)])
    except OSError as error:
        problem = os.strerror(error.errno or 0).lower()
    return next((each.ifindex for each in rtnetlink.links(target) if each.ifindex not in before), 0), problem


def _put_back(host: Netlink, container: Netlink, moved: list[tuple[Link, int, list[bytes]]], ours: int) -> None:
    for link, index, addresses in moved:
        try:
            back, _ = _move_one(container, host, index, ours, link.name)
            host.batch([rtnetlink.restore_address(back, each) for each in addresses])
            host.batch([rtnetlink.set_link(back, up=link.up)])
        except OSError:
            continue  # what is told is why the container was not made
