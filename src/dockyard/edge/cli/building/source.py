"""What is built from: the argument of `dockyard build` and `-f`.

Owns: the forms of a context (a directory, a tar or a Dockerfile on stdin, URLs), which Dockerfile and which ignore file
count. Does not own: the tar (`packing`), the rules of ignore files (`proto.dockerignore`), fetching (the daemon does).

A Dockerfile that lies outside of the context, or comes from stdin, travels inside the tar under a name of its own that
an amended `.dockerignore` hides from COPY: every Docker engine understands that.
"""

from __future__ import annotations

import os

from dockyard.edge.cli.building.packing import Packer
from dockyard.edge.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dockyard.proto.dockerignore import Ignore

IGNORE = ".dockerignore"
DOCKERFILE = "Dockerfile"
_PIECE = 1 << 20
_HEAD = 512
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")


class Source:
    """`remote`: what the daemon fetches, "" if the body is the context. `body`: the tar, where there is one.

    `dockerfile`: its path in the context, "" for the usual one. `text`: the Dockerfile, where the client has it, and
    `name` what messages call it. `root`: the directory, "" if it is none; `outside`: a Dockerfile that lies elsewhere.
    """

    __slots__ = ("body", "dockerfile", "name", "outside", "remote", "root", "rules", "text")

    def __init__(
        self,
        remote: str = "",
        body: Iterable[bytes] | None = None,
        dockerfile: str = "",
        text: bytes | None = None,
        name: str = DOCKERFILE,
        root: str = "",
        outside: str = "",
        rules: Ignore | None = None,
    ) -> None:
        self.remote, self.body = remote, body
        self.dockerfile, self.text, self.name = dockerfile, text, name
        self.root, self.outside, self.rules = root, outside, rules


def find(argument: str, file: str) -> Source:
    """The context as the command line names it. CliError naming what is missing."""
    if argument == "-":
        return _stdin(file)
    if _is_directory(argument):
        return _directory(argument, file)
    if file == "-":
        text = _all_of_stdin()
        return Source(argument, [text], text=text, name="stdin")
    return Source(argument, dockerfile=file)


def _is_directory(argument: str) -> bool:
    """Only for what is not there need the forms of URLs be known."""
    if os.path.isdir(argument):
        return True
    from dockyard.proto.buildcontext import parse

    return parse(argument).kind == "directory"


def _stdin(file: str) -> Source:
    if file == "-":
        raise CliError("invalid argument: can't use stdin for both build context and dockerfile")
    if os.isatty(0):
        raise CliError("the context is to come from stdin, but stdin is a terminal: give a directory, or redirect")
    head = _read_head()
    if is_archive(head):
        return Source("", _rest_of_stdin(head), file)
    if file:
        raise CliError("stdin is no archive: with -f it must be a tar that contains the Dockerfile")
    text = head + _all_of_stdin()
    if not text.strip():
        raise CliError("stdin is empty: neither a Dockerfile nor a tar")
    return Source("", Packer("", extra={DOCKERFILE: text}), text=text, name="stdin")


def is_archive(head: bytes) -> bool:
    """Whether bytes begin a tar or something compressed."""
    if head.startswith(_COMPRESSED) or head[257:262] == b"ustar":
        return True
    field = head[148:156].strip(b"\0 ")  # before POSIX there was no magic, but always a checksum
    try:
        return len(head) == _HEAD and int(field, 8) == sum(head) - sum(head[148:156]) + 8 * 32
    except ValueError:
        return False


def _read_head() -> bytes:
    head = b""
    while len(head) < _HEAD and (data := os.read(0, _HEAD - len(head))):
        head += data
    return head


def _rest_of_stdin(head: bytes) -> Iterator[bytes]:
    yield head
    while data := os.read(0, _PIECE):
        yield data


def _all_of_stdin() -> bytes:
    return b"".join(_rest_of_stdin(b""))


def _directory(argument: str, file: str) -> Source:
    root = os.path.realpath(argument)
    if not os.path.isdir(root):
        what = "is not a directory" if os.path.exists(root) else "not found"
        raise CliError(f'unable to prepare context: path "{argument}" {what}')
    if file == "-":
        return _with_foreign(root, _all_of_stdin(), "stdin", "")
    path = os.path.abspath(file) if file else _usual(root)
    text = _read(path, argument if not file else "")
    inside = _inside(root, path)
    if not inside:
        return _with_foreign(root, text, os.path.basename(path), path)
    rules, named = _rules(root, path)
    always = {inside, IGNORE} | ({inside + IGNORE} if named else set())
    return Source("", Packer(root, rules, always), inside, text, inside, root, "", rules)


def _usual(root: str) -> str:
    """`Dockerfile`, or `dockerfile` where only that is there."""
    path = os.path.join(root, DOCKERFILE)
    lower = os.path.join(root, DOCKERFILE.lower())
    return lower if not os.path.lexists(path) and os.path.lexists(lower) else path


def _read(path: str, context: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        if context:
            raise CliError(
                f"failed to read dockerfile: open {os.path.basename(path)}: no such file or directory: "
                f"{context} has none, name another with -f"
            ) from None
        raise CliError(f"failed to read dockerfile: open {path}: no such file or directory") from None
    except OSError as error:
        raise CliError(f"failed to read dockerfile: open {path}: {(error.strerror or str(error)).lower()}") from None


def _inside(root: str, path: str) -> str:
    """The path within the context; "" for what lies, or leads, out of it."""
    relative = os.path.relpath(os.path.realpath(os.path.dirname(path)), root)
    if relative == ".." or relative.startswith("../"):
        return ""
    name = os.path.normpath(os.path.join(relative, os.path.basename(path)))
    real = os.path.relpath(os.path.realpath(path), root)
    return "" if real.startswith("../") else name


def _rules(root: str, dockerfile: str) -> tuple[Ignore | None, bool]:
    """The ignore rules, and whether they are the Dockerfile's own (`NAME.dockerignore` beside it)."""
    for path, own in ((dockerfile + IGNORE, True), (os.path.join(root, IGNORE), False)):
        if (text := _optional(path)) is not None:
            return _ignore(text), own
    return None, False


def _ignore(text: bytes) -> Ignore:
    from dockyard.proto.dockerignore import Ignore

    return Ignore.parse(text.decode("utf-8", "surrogateescape"))


def _optional(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CliError(f"error reading {path}: {(error.strerror or str(error)).lower()}") from None


def _with_foreign(root: str, text: bytes, name: str, path: str) -> Source:
    """A directory with a Dockerfile from elsewhere, which its own ignore file (beside it) governs if there is one."""
    import hashlib

    hidden = f".dockerfile.{hashlib.sha256(text).hexdigest()[:20]}"
    own = _optional(path + IGNORE) if path else None
    theirs = own if own is not None else _optional(os.path.join(root, IGNORE))
    rules = _ignore(theirs) if theirs is not None else None
    amended = (theirs or b"").rstrip(b"\n") + b"\n" + hidden.encode() + b"\n"
    if theirs is None or own is not None:
        amended += IGNORE.encode() + b"\n"
    extra = {hidden: text, IGNORE: amended.lstrip(b"\n")}
    return Source("", Packer(root, rules, (), extra), hidden, text, name, root, path, rules)
