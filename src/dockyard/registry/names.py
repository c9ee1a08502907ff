"""Names of a registry, and the keys that they stand for in a backend.

Owns: the grammar of repositories, tags and digests (S31: nothing else ever gets into a key), the layout of keys.
Pure. Source of the grammar: OCI distribution-spec 1.1, "Pulling manifests".

    blobs/sha256/AB/HEX/INSTANCE              bytes of a blob; instance = RANDOM-SIZE: never reused, never rewritten
    blobs/sha256/AB/HEX/INSTANCE.condemned    the collector's mark; lives until after the bytes are gone
    repos/NAME/_refs/HEX/INSTANCE.u.TOKEN     a lease: uploaded, mounted or asked for lately
    repos/NAME/_refs/HEX/INSTANCE.c.TOKEN     kept by the pull-through cache
    repos/NAME/_refs/HEX/INSTANCE.m.MHEX.GEN  manifest MHEX, as generation GEN wrote it, needs the blob
    repos/NAME/_refs/HEX/-.m.MHEX.GEN         index MHEX names the manifest HEX
    repos/NAME/_manifests/HEX                 one line of JSON (`manifests.Header`), then the manifest as it came
    repos/NAME/_tags/TAG                      the digest; an empty one is no tag
    repos/NAME/_referrers/HEX/MHEX            descriptor of a manifest whose subject is HEX
    uploads/ID/…                              bytes of an upload in progress, and its state
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from dockyard.registry.errors import RegistryError

_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_UPLOAD = re.compile(r"[0-9a-f]{32}\Z")
_MAX_NAME: Final = 255
CONDEMNED: Final = ".condemned"
REPOSITORIES: Final = "repos"
BLOBS: Final = "blobs/sha256"
UPLOADS: Final = "uploads"


def check_repository(name: str) -> str:
    """The name itself; NAME_INVALID if it is none."""
    if len(name) > _MAX_NAME or not _NAME.match(name):
        raise RegistryError("NAME_INVALID", detail={"name": name[:_MAX_NAME]})
    return name


def is_repository(name: str) -> bool:
    return len(name) <= _MAX_NAME and bool(_NAME.match(name))


def check_digest(text: str) -> str:
    """The digest itself; DIGEST_INVALID for anything but sha256 with 64 lower-case hex digits."""
    if not _DIGEST.match(text):
        raise RegistryError("DIGEST_INVALID", "invalid digest (sha256 and 64 hex digits are served)", text[:200])
    return text


def is_tag(text: str) -> bool:
    return bool(_TAG.match(text))


def check_upload(text: str) -> str:
    """An upload's id; BLOB_UPLOAD_UNKNOWN if we cannot have given it out."""
    if not _UPLOAD.match(text):
        raise RegistryError("BLOB_UPLOAD_UNKNOWN")
    return text


def hexadecimal(digest: str) -> str:
    return digest.removeprefix("sha256:")


def repository(name: str) -> str:
    return f"{REPOSITORIES}/{name}"


def blob_folder(digest: str) -> str:
    hexa = hexadecimal(digest)
    return f"{BLOBS}/{hexa[:2]}/{hexa}"


def data(digest: str, instance: str) -> str:
    return f"{blob_folder(digest)}/{instance}"


def refs(name: str, digest: str = "") -> str:
    folder = f"{REPOSITORIES}/{name}/_refs"
    return f"{folder}/{hexadecimal(digest)}" if digest else folder


def manifests(name: str) -> str:
    return f"{REPOSITORIES}/{name}/_manifests"


def manifest(name: str, digest: str) -> str:
    return f"{manifests(name)}/{hexadecimal(digest)}"


def tags(name: str) -> str:
    return f"{REPOSITORIES}/{name}/_tags"


def tag(name: str, text: str) -> str:
    return f"{tags(name)}/{text}"


def referrers(name: str, digest: str = "") -> str:
    folder = f"{REPOSITORIES}/{name}/_referrers"
    return f"{folder}/{hexadecimal(digest)}" if digest else folder


def upload(identifier: str) -> str:
    return f"{UPLOADS}/{identifier}"


class Ref(NamedTuple):
    """The parsed name of an object below `_refs/HEX/`. `kind`: u, c or m; `owner`: token, or the manifest's hex."""

    instance: str
    kind: str
    owner: str
    generation: str = ""

    def name(self) -> str:
        return ".".join(part for part in self if part)

    @classmethod
    def parse(cls, name: str) -> Ref | None:
        """None for a name that we did not write."""
        parts = name.split(".")
        shapes = {"u": 3, "c": 3, "m": 4}
        if len(parts) < 3 or shapes.get(parts[1]) != len(parts):
            return None
        return cls(*parts)


def size_of(instance: str) -> int:
    """Bytes of a blob, which its instance's name says."""
    return int(instance.rpartition("-")[2])
