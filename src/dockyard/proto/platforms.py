"""Platforms: what users write, which of an index's manifests fits.

Owns: "linux/arm/v7", the names of architectures in other spellings, the choice. Does not own: which platform this host
is (an argument). Pure.

Source: OCI image-spec, image-index.md; the variants of arm: config.md; behaviour as containerd's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import Descriptor, Platform

_PART = re.compile(r"[A-Za-z0-9_.-]+\Z")
_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "i386": ("386", ""), "i686": ("386", ""),
    "aarch64": ("arm64", ""), "armhf": ("arm", "v7"), "armel": ("arm", "v6"), "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
}  # fmt: skip
_KNOWN_OS: Final = frozenset({
    "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "netbsd", "openbsd",
    "plan9", "solaris", "wasi", "wasip1", "windows", "zos",
})  # fmt: skip
_KNOWN_ARCHITECTURES: Final = frozenset({
    "386", "amd64", "arm", "armbe", "arm64", "arm64be", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc",
    "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm",
})  # fmt: skip
_ARM_VARIANTS: Final = ("v8", "v7", "v6", "v5")


def parse(text: str, host: Platform) -> Platform:
    """What a user wrote: OS, ARCH, OS/ARCH or OS/ARCH/VARIANT; what is missing is the host's. InvalidArgument."""
    parts = text.lower().split("/") if text else []
    if len(parts) > 3 or any(not _PART.match(part) for part in parts):
        raise InvalidArgument(f'"{text[:100]}" is an invalid component of "{text[:100]}": platform specifier component')
    if not parts:
        return normal(host)
    if len(parts) == 1:
        wanted = _of_one_word(parts[0], host)
    else:
        wanted = Platform(parts[1], parts[0], variant=parts[2] if len(parts) > 2 else "")
    return normal(wanted)


def _of_one_word(word: str, host: Platform) -> Platform:
    if word in _KNOWN_OS:
        return Platform(host.architecture, word, variant=host.variant)
    if word not in _KNOWN_ARCHITECTURES and word not in _ARCHITECTURES:
        raise InvalidArgument(f'"{word[:100]}": unknown operating system or architecture: invalid argument')
    return Platform(word, host.os)


def normal(platform: Platform) -> Platform:
    """With one spelling for each architecture and without the variants that everybody means."""
    architecture, variant = platform.architecture.lower(), platform.variant.lower()
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = variant or implied
    if variant.isdecimal():
        variant = "v" + variant
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    if architecture == "arm" and not variant:
        variant = "v7"
    return Platform(architecture, platform.os.lower(), variant=variant)


def show(platform: Platform) -> str:
    """ "linux/arm/v7" """
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def rank(offered: Platform, wanted: Platform) -> int | None:
    """How well an offer fits, 0 best; None: it does not."""
    offered, wanted = normal(offered), normal(wanted)
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return None
    if offered.variant == wanted.variant:
        return 0
    if wanted.architecture == "arm":
        order = {variant: place for place, variant in enumerate(_ARM_VARIANTS)}
        have, want = order.get(offered.variant), order.get(wanted.variant)
        return have - want if have is not None and want is not None and have > want else None
    return 1 if not offered.variant else None  # a plain build runs on every variant


def choose(offers: Iterable[Descriptor], wanted: Platform) -> Descriptor | None:
    """The best of an index's manifests, the first of equals; one that names no platform is the last resort."""
    best: tuple[int, Descriptor] | None = None
    for offer in offers:
        if offer.platform is None:
            fit: int | None = 1000
        else:
            fit = rank(offer.platform, wanted)
        if fit is not None and (best is None or fit < best[0]):
            best = (fit, offer)
    return best[1] if best is not None else None
