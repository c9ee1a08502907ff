"""The last steps before the user's program: identity, limits, capabilities, seccomp, execve.

Owns: everything that a container's init and an exec'd process do alike once they stand in the container's namespaces.
Does not own: getting there (`runtime.init`, `runtime.execs`).

Runs on the container's ground: nothing here imports, and `seal()` has made sure that nothing can. Failures are
`ProgramFailed` or OSError, and travel as plain values. Sources: capabilities(7), seccomp(2), the OCI runtime spec's
config.md `process`.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from dockyard.linux import abi, apparmor, calls, capabilities, passwd, seccomp, selinux

NOT_FOUND, NOT_EXECUTABLE, FAILED = 127, 126, 128
_DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CWD_FAILED = 'chdir to cwd ("{}") set in config.json failed'
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)
_LIMITS = {
    "RLIMIT_" + name: getattr(resource, "RLIMIT_" + name)
    for name in (
        "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS",
        "MSGQUEUE", "NICE", "RTPRIO", "RTTIME", "SIGPENDING",
    )
}  # fmt: skip
_LIMITS["RLIMIT_LOCKS"] = 10


class ProgramFailed(Exception):
    """The program cannot be run; `code` is the exit code that Docker shows for it (126, 127 or 128)."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def seal() -> None:
    """From here on Python can import nothing: an image cannot slip code under an engine process (S18)."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.excepthook = _no_traceback
    sys.unraisablehook = _no_traceback


def _no_traceback(*_: object) -> None:
    """CPython would open the source path, inside the image, to print a line of it."""


def reset_signals() -> None:
    """The mask, and what Python ignores; `linux.signals.default_all` did the rest when the zygote began."""
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def set_limits(limits: list[dict[str, Any]]) -> None:
    """setrlimit(2). Without CAP_SYS_RESOURCE a hard limit cannot be raised: it then stays as it is."""
    for limit in limits:
        number = _LIMITS.get(limit["type"])
        if number is None:
            raise ProgramFailed(f"unknown rlimit {limit['type']}")
        soft, hard = _rlimit(limit["soft"]), _rlimit(limit["hard"])
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, PermissionError):
            ceiling = resource.getrlimit(number)[1]
            resource.setrlimit(number, (_lower(soft, ceiling), _lower(hard, ceiling)))


def _rlimit(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 or value >= 2**63 else value


def _lower(value: int, ceiling: int) -> int:
    if ceiling == resource.RLIM_INFINITY:
        return value
    return ceiling if value == resource.RLIM_INFINITY else min(value, ceiling)


def resolve_user(process: dict[str, Any], root: int = abi.AT_FDCWD) -> tuple[int, int, list[int], bytes]:
    """uid, gid, supplementary groups, home. A `user.username` ("name[:group]", our extension) is looked up inside:
    beneath `root` by who is not there yet.
    """
    user = process.get("user") or {}
    spec = user.get("username")
    if spec is None:
        groups = [int(g) for g in user.get("additionalGids") or []]
        uid = int(user.get("uid") or 0)
        return uid, int(user.get("gid") or 0), groups, _home_of(uid, root)
    try:
        found = passwd.resolve_user(
            spec.encode(),
            [str(group).encode() for group in user.get("groupAdd") or []],
            lambda: passwd.read_etc_file(passwd.PASSWD, root),
            lambda: passwd.read_etc_file(passwd.GROUP, root),
        )
    except passwd.LookupFailed as error:
        raise ProgramFailed(str(error), NOT_EXECUTABLE) from error
    return found.uid, found.gid, list(found.groups), found.home


def _home_of(uid: int, root: int) -> bytes:
    try:
        return passwd.home_of(uid, passwd.read_etc_file(passwd.PASSWD, root))
    except passwd.LookupFailed as error:
        raise ProgramFailed(str(error), NOT_EXECUTABLE) from error


def enter_directory(path: str, uid: int, gid: int, create: bool) -> None:
    """chdir, and make sure that it ended inside the root (S3)."""
    path = path or "/"
    if not path.startswith("/"):
        raise ProgramFailed(f"the working directory '{path}' is invalid, it needs to be an absolute path")
    try:
        os.chdir(path)
    except FileNotFoundError:
        if not create:
            raise ProgramFailed(f"{_CWD_FAILED.format(path)}: no such file or directory") from None
        os.makedirs(path, 0o755, exist_ok=True)
        os.chdir(path)
    except OSError as error:
        raise ProgramFailed(f"{_CWD_FAILED.format(path)}: {os.strerror(error.errno or 0).lower()}") from None
    try:
        inside = os.getcwd()
    except OSError:
        inside = ""
    if not inside.startswith("/"):
        raise ProgramFailed(f"current working directory is outside of container mount namespace root: {path!r}")


def drop_privileges(
    process: dict[str, Any],
    program: bytes | None,
    uid: int,
    gid: int,
    groups: list[int],
    listen: Callable[[int], None] | None = None,
) -> None:
    """Security labels, bounding set, user, groups, capabilities, no_new_privs and seccomp, in the order that works.

    `listen` is given the descriptor of a filter that notifies (`process.seccompListener`, our extension).
    """
    if label := process.get("selinuxLabel"):
        _label(label)
    if profile := process.get("apparmorProfile"):
        _confine(profile)
    caps = process.get("capabilities") or {}
    named = (process.get("user") or {}).get("username") is not None
    effective, permitted = caps.get("effective") or [], caps.get("permitted") or []
    if named and uid != 0:
        effective = permitted = caps.get("ambient") or []  # what execve leaves to a user that is not root
    flags = int(process.get("seccompFlags") or 0)
    no_new_privileges = bool(process.get("noNewPrivileges"))
    if no_new_privileges:
        calls.prctl(abi.PR_SET_NO_NEW_PRIVS, 1)
    elif program:
        _filter(process, program, flags, listen)  # needs CAP_SYS_ADMIN, so before the capabilities go
    capabilities.apply_bounding(caps.get("bounding") or [])
    capabilities.keep_capabilities(True)
    if not process.get("keepGroups"):
        os.setgroups(groups)
    elif groups:
        raise ProgramFailed("process.user.additionalGids: the user namespace allows no setgroups", FAILED)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    capabilities.keep_capabilities(False)
    capabilities.set_capabilities(effective, permitted, caps.get("inheritable") or [], caps.get("ambient") or [])
    if no_new_privileges and program:
        _filter(process, program, flags, listen)


def _filter(process: dict[str, Any], program: bytes, flags: int, listen: Callable[[int], None] | None) -> None:
    if listen is not None and process.get("seccompListener"):
        listen(seccomp.load_listening(program, flags))
    else:
        seccomp.load(program, flags)


def _confine(profile: str) -> None:
    try:
        apparmor.change_on_exec(profile)
    except OSError as error:
        reason = f"apparmor failed to apply profile {profile}: {os.strerror(error.errno or 0).lower()}"
        raise ProgramFailed(f"unable to apply apparmor profile: {reason}") from None


def _label(label: str) -> None:
    try:
        selinux.set_exec(label)
    except OSError as error:
        raise ProgramFailed(f"can't set process label {label}: {os.strerror(error.errno or 0).lower()}") from None


def label_keyring(label: str) -> None:
    """The session keyring to come is the container's. ProgramFailed."""
    try:
        selinux.set_keyring(label)
    except OSError as error:
        raise ProgramFailed(f"can't set keyring label {label}: {os.strerror(error.errno or 0).lower()}") from None


def relabel_self(label: str) -> None:
    """For a process of ours that stays in the container and executes nothing. Not every policy allows that: it then
    keeps the engine's domain."""
    try:
        selinux.set_current(label)
    except OSError:
        pass


def environment(process: dict[str, Any], home: bytes) -> dict[bytes, bytes]:
    """The program's environment, HOME added where it is not set. The last of equal names wins."""
    found: dict[bytes, bytes] = {}
    for entry in process.get("env") or []:
        name, equals, value = entry.encode("utf-8", "surrogateescape").partition(b"=")
        if equals:
            found[name] = value
    if b"HOME" not in found or not found[b"HOME"]:
        found[b"HOME"] = home or b"/"
    return found


def execute(args: list[str], environ: dict[bytes, bytes]) -> None:
    """execve(2), looking a bare name up in the container's PATH. Returns never; raises ProgramFailed."""
    if not args or not args[0]:
        raise ProgramFailed("no command specified")
    name = args[0]
    argv = [argument.encode("utf-8", "surrogateescape") for argument in args]
    if "/" in name:
        _try(argv[0], argv, environ, name)
        _blame_interpreter(argv[0], name)
        raise ProgramFailed(f'exec: "{name}": stat {name}: no such file or directory', NOT_FOUND)
    denied = False
    candidates = [(d or b".") + b"/" + argv[0] for d in environ.get(b"PATH", _DEFAULT_PATH).split(b":")]
    for candidate in candidates:
        try:
            _try(candidate, argv, environ, name)
        except ProgramFailed as failed:
            if failed.code != NOT_EXECUTABLE or "exec format" in failed.message:
                raise
            denied = denied or not os.path.isdir(candidate)
    if denied:
        raise ProgramFailed(f'exec: "{name}": permission denied', NOT_EXECUTABLE)
    for candidate in candidates:
        _blame_interpreter(candidate, name)
    raise ProgramFailed(f'exec: "{name}": executable file not found in $PATH', NOT_FOUND)


def check(args: list[str], environ: dict[bytes, bytes]) -> None:
    """Raise now what `execute` would for a program that is not there or not executable."""
    if not args or not args[0]:
        raise ProgramFailed("no command specified")
    name, code = args[0], NOT_FOUND
    path = name.encode("utf-8", "surrogateescape")
    directories = [b""] if b"/" in path else [d or b"." for d in environ.get(b"PATH", _DEFAULT_PATH).split(b":")]
    for directory in directories:
        candidate = directory + b"/" + path if directory else path
        if os.path.isfile(candidate):
            if _may_execute(candidate):
                return
            code = NOT_EXECUTABLE
    if code == NOT_EXECUTABLE:
        raise ProgramFailed(f'exec: "{name}": permission denied', code)
    if "/" in name:
        raise ProgramFailed(f'exec: "{name}": stat {name}: no such file or directory', code)
    raise ProgramFailed(f'exec: "{name}": executable file not found in $PATH', code)


def _may_execute(path: bytes) -> bool:
    """By faccessat2(2) and, where a filter of system calls does not know that (EPERM), by access(2)."""
    return os.access(path, os.X_OK, effective_ids=True) or os.access(path, os.X_OK)


def _try(path: bytes, argv: list[bytes], environ: dict[bytes, bytes], name: str) -> None:
    """One execve; returns if the file is not there."""
    try:
        os.execve(path, argv, environ)
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError:
        # Both words of a directory: clients older and newer than Docker 25 look for the one or the other.
        reason = "is a directory: permission denied" if os.path.isdir(path) else "permission denied"
        raise ProgramFailed(f'exec: "{name}": {reason}', NOT_EXECUTABLE) from None
    except OSError as error:
        reason = "exec format error" if error.errno == 8 else (error.strerror or "").lower()
        raise ProgramFailed(f"exec {name}: {reason}", NOT_EXECUTABLE) from None


def _blame_interpreter(path: bytes, name: str) -> None:
    """A program that is there and yet was not found: what it names behind #! or as its loader is missing."""
    if os.path.lexists(path):
        raise ProgramFailed(f"exec {name}: no such file or directory", NOT_FOUND)
