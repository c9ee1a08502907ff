"""`dockyard image bootstrap`: a base image straight from a distribution's package mirror.

Owns: names → suites, driving mmdebstrap (Debian's minbase took 24 s, 14 of them of a processor; debootstrap took 32
and 22; and its tar comes out the same each time), the import. Does not own: what is in a distribution.

Reproducible: times in the tar end at SOURCE_DATE_EPOCH, by default the date of the mirror's Release file, which is the
image's date too. Runs here, as root, beside the daemon or far from it: the tar is streamed into `POST /images/create`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

from dockyard.edge.cli.call import Body, Call, complain
from dockyard.edge.cli.commands.registries import reference_of
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, many, value
from dockyard.edge.cli.progress import show_messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from dockyard.proto.references import Reference

DISTRIBUTIONS = ("debian", "ubuntu")
_APT = "/etc/apt"  # where this host's own mirrors are written
KEYRINGS = {
    "debian": ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    "ubuntu": ("/usr/share/keyrings/ubuntu-archive-keyring.gpg", "ubuntu-keyring"),
}
NUMBERS = {
    "debian": {"11": "bullseye", "12": "bookworm", "13": "trixie", "latest": "stable", "": "stable"},
    "ubuntu": {"20.04": "focal", "22.04": "jammy", "24.04": "noble", "latest": "noble", "": "noble"},
}
VARIANTS = ("extract", "custom", "essential", "apt", "minbase", "buildd", "important", "standard")
_PROGRAM = "mmdebstrap"
_CHUNK = 1 << 18
_TIMEOUT = 30  # seconds for the mirror's Release file


def _bootstrap(call: Call) -> None:
    what = reference_of(call.arguments[0])
    distribution, suite = system_of(what)
    variant = call.text("variant")
    if variant not in VARIANTS:
        raise CliError(f'unknown variant "{variant}": choose of {", ".join(VARIANTS)}')
    _check_host(distribution, bool(call.texts("keyring")))
    mirror = (call.text("mirror") or _hosts_mirror(distribution)).rstrip("/")
    epoch = _epoch(mirror, suite)
    target = (reference_of(call.text("tag")) if call.text("tag") else what).with_default_tag()
    command = [_PROGRAM, "--mode=root", "--format=tar", f"--variant={variant}", *_include(call)]
    command += [f"--architectures={call.text('architecture')}"] if call.text("architecture") else []
    command += [suite, "-", *([mirror] if call.text("mirror") else [])]
    _end_in_order()
    with (
        tempfile.TemporaryDirectory(prefix="dockyard-bootstrap-") as place,
        closing(_tar(command, place, call.texts("keyring"), epoch, quiet=call.on("quiet"))) as chunks,
    ):
        query = {
            "fromSrc": "-",
            "repo": target.familiar_repository,
            "tag": target.tag,
            "message": f"{distribution} {suite} ({variant}) from {mirror}",
            "changes": _changes(distribution, suite, mirror),
            "platform": f"linux/{call.text('architecture')}" if call.text("architecture") else None,
            "created": str(epoch),
        }
        headers = {"Content-Type": "application/x-tar"}
        show_messages(call.api.stream("POST", "/images/create", query, raw=chunks, headers=headers))


def _end_in_order() -> None:
    """A signal that ends the client lets the program take its mounts away first."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def system_of(reference: Reference) -> tuple[str, str]:
    """`debian:12` → ("debian", "bookworm"). CliError for a system that we cannot make."""
    name = reference.familiar_repository
    if name not in DISTRIBUTIONS or reference.digest:
        raise CliError(
            f"cannot bootstrap {reference.familiar}: give debian:SUITE or ubuntu:SUITE (and --tag for a name)"
        )
    return name, NUMBERS[name].get(reference.tag, reference.tag)


def _check_host(distribution: str, has_keyring: bool) -> None:
    """All that the host lacks for this, in one message each with what helps."""
    if os.geteuid() != 0:
        raise CliError("image bootstrap needs root: it unpacks packages as their owners and runs them (try with sudo)")
    if not shutil.which(_PROGRAM):
        raise CliError(f"image bootstrap needs {_PROGRAM}, which is not installed: apt-get install {_PROGRAM}")
    keyring, package = KEYRINGS[distribution]
    if not has_keyring and not os.path.exists(keyring):
        raise CliError(
            f"the keys that {distribution}'s packages are signed with are not installed: apt-get install {package}; "
            f"where there is no such package, take {os.path.basename(keyring)} out of {distribution}'s own and give "
            "--keyring"
        )


def _hosts_mirror(distribution: str) -> str:
    """The mirror of `distribution` that this host's apt uses: sources.list(5). CliError if it uses none."""
    folder = Path(_APT)
    for file in (folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))):
        try:
            words = file.read_text(errors="replace").split()
        except OSError:
            continue
        for word in words:
            if word.startswith(("http://", "https://")) and word.rstrip("/").endswith(f"/{distribution}"):
                return word
    raise CliError(f"this host's apt knows no mirror of {distribution}: give one with --mirror")


def _epoch(mirror: str, suite: str) -> int:
    """Seconds: SOURCE_DATE_EPOCH, or when the mirror's packages were last published. CliError if it is out of reach."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given:
        if not given.isdecimal():
            raise CliError(f"SOURCE_DATE_EPOCH={given!r} is no number of seconds")
        return int(given)
    import urllib.request
    from email.utils import parsedate_to_datetime

    url = f"{mirror}/dists/{suite}/InRelease"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            head = answer.read(1 << 16).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        raise CliError(f"the mirror cannot be reached: {url}: {error}") from None
    for line in head.splitlines():
        if line.startswith("Date:"):
            try:
                return int(parsedate_to_datetime(line[5:].strip()).timestamp())
            except ValueError:
                break
    raise CliError(f"{url}: it does not say when it was published; set SOURCE_DATE_EPOCH")


def _include(call: Call) -> list[str]:
    packages = [name for text in call.texts("include") for name in text.split(",") if name]
    return [f"--include={','.join(packages)}"] if packages else []


def _changes(distribution: str, suite: str, mirror: str) -> list[str]:
    prefix = "org.opencontainers.image."
    labels = {"title": distribution, "version": suite, "source": mirror}
    return ['CMD ["bash"]', *(f'LABEL {prefix}{name}="{text}"' for name, text in labels.items())]


def _keyrings(paths: list[str], place: str) -> list[str]:
    """Copies that apt's own user can read, wherever the files lie. CliError naming one that cannot be had."""
    flags = []
    for number, path in enumerate(paths):
        copy = os.path.join(place, f"{number}-{os.path.basename(path)}")
        try:
            shutil.copyfile(path, copy)
            os.chmod(copy, 0o644)
        except OSError as error:
            raise CliError(f"keyring {path}: {error.strerror}") from None
        flags.append(f"--keyring={copy}")
    return flags


def _tar(
    command: list[str], place: str, keyrings: list[str], epoch: int, *, quiet: bool
) -> Generator[bytes, None, None]:
    """The tar while it is made. CliError with its last words if the program fails: the import then fails too."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": place,
        "SOURCE_DATE_EPOCH": str(epoch),
        **{name: text for name, text in os.environ.items() if name.lower().endswith("_proxy")},
    }
    with open(os.path.join(place, "log"), "w+b") as log:
        os.chmod(place, 0o711)  # apt fetches as a user of its own
        made = subprocess.Popen(
            [command[0], *_keyrings(keyrings, place), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            cwd=place,
            start_new_session=True,  # when it fails it signals its whole process group
        )
        assert made.stdout is not None
        if not quiet:
            complain(f"Making {command[-2] if command[-1] == '-' else command[-3]} with {command[0]} (some 30 seconds)")
        try:
            while data := made.stdout.read(_CHUNK):
                yield data
            if made.wait() != 0:
                log.seek(0)
                lines = log.read().decode("utf-8", "replace").strip().splitlines()[-8:]
                raise CliError(f"{command[0]} failed with exit code {made.returncode}:\n" + "\n".join(lines))
        finally:
            made.stdout.close()
            if made.poll() is None:
                made.terminate()  # it takes its mounts away itself
                made.wait()


bootstrap = Body(
    _bootstrap,
    (
        value("--architecture", "Debian's name of the architecture (default: this machine's)"),
        many("--include", "More packages to install, separated by commas"),
        many("--keyring", "Keys that the mirror's packages are signed with", complete="file"),
        value("--mirror", "Package mirror (default: the one that this host's apt uses)"),
        flag("-q --quiet", "Only print the image's id"),
        value("-t --tag", "Name of the image (default: as given)"),
        value(
            "--variant", "Set of packages", default="minbase", shown_default='"minbase"', complete=" ".join(VARIANTS)
        ),
    ),
)
