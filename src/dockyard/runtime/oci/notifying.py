"""The listener of a container's system call filter: who answers calls that `SCMP_ACT_NOTIFY` stops.

Owns: what `linux.seccomp` may ask for in this, and handing the filter's descriptor to the listener with the container
process state. Does not own: the filter (`linux.seccomp`), taking the descriptor out of the container's process
(`runtime.spawn`). Source: OCI runtime-spec 1.3, config-linux.md, "Seccomp" and "The Container Process State".
"""

from __future__ import annotations

import array
import json
import socket
from typing import Any, Final

from dockyard.linux import seccomp
from dockyard.runtime.oci.errors import OciError

_WITH_ERRNO: Final = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_TAKEN: Final = "write"  # by which a container's process tells us the descriptor
_PATIENCE: Final = 30.0  # s for a listener to take it


def check(profile: dict[str, Any]) -> bool:
    """Whether this `linux.seccomp` needs its listener. Raises OciError naming the field that is wrong."""
    path = profile.get("listenerPath") or ""
    if profile.get("listenerMetadata") and not path:
        raise OciError("linux.seccomp.listenerMetadata: cannot be set without listenerPath")
    if profile.get("defaultErrnoRet") is not None and profile.get("defaultAction") not in _WITH_ERRNO:
        raise OciError(f"linux.seccomp.defaultErrnoRet: {profile.get('defaultAction')} has no errno")
    for index, rule in enumerate(profile.get("syscalls") or ()):
        if rule.get("errnoRet") is not None and rule.get("action") not in _WITH_ERRNO:
            raise OciError(f"linux.seccomp.syscalls[{index}].errnoRet: {rule.get('action')} has no errno")
        if rule.get("action") == seccomp.NOTIFY and _TAKEN in (rule.get("names") or ()):
            raise OciError(f"linux.seccomp.syscalls[{index}]: {seccomp.NOTIFY} cannot be had for {_TAKEN}")
    if not seccomp.notifies(profile):
        return False
    if not path:
        raise OciError(f"linux.seccomp.listenerPath: {seccomp.NOTIFY} needs one")
    if not path.startswith("/"):
        raise OciError(f"linux.seccomp.listenerPath: {path!r} is not an absolute path")
    return True


def send(config: dict[str, Any], state: dict[str, Any], pid: int, fd: int) -> None:
    """One connection to the listener: the container process state with the filter's descriptor. `state`: the
    container's, `pid`: of the process that has the filter. Raises OciError."""
    profile = config["linux"]["seccomp"]
    document: dict[str, Any] = {"ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": pid, "state": state}
    if profile.get("listenerMetadata"):
        document["metadata"] = profile["listenerMetadata"]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    data = json.dumps(document).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(profile["listenerPath"])
            if rest := data[sock.sendmsg([data], rights) :]:  # else the listener may have what it wants, and have gone
                sock.sendall(rest)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OciError(f"linux.seccomp.listenerPath: {profile['listenerPath']}: {reason}") from None
