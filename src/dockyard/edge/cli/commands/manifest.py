"""`dockyard manifest` and `dockyard imagetools`: images of several platforms under one name."""

from __future__ import annotations

import json
import os
from typing import Any

from dockyard.edge.cli.call import Body, Call, each, say
from dockyard.edge.cli.commands.registries import reference_of
from dockyard.edge.cli.credentials import Credentials, folder
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, many, value
from dockyard.edge.cli.manifests import Entry, Lists, describe, index
from dockyard.edge.cli.registry import Found, Registry
from dockyard.proto.references import Reference


def _reference(text: str) -> Reference:
    return reference_of(text).with_default_tag()


class _Registries:
    """The registries that one command talks to."""

    def __init__(self, call: Call, insecure: bool) -> None:
        self._kept = Credentials(folder(call.options, os.environ), os.environ)
        self._insecure = insecure
        self._known: dict[str, Registry] = {}

    def of(self, reference: Reference) -> Registry:
        if reference.domain not in self._known:
            self._known[reference.domain] = Registry(reference.domain, self._kept, insecure=self._insecure)
        return self._known[reference.domain]

    def entries(self, reference: Reference) -> list[Entry]:
        """The image, or all of an index's."""
        registry = self.of(reference)
        found = registry.manifest(reference)
        if not found.is_index:
            return [describe(registry, reference, found)]
        out = []
        for descriptor in found.document()["manifests"]:
            inner = reference._replace(tag="", digest=descriptor["digest"])
            out.append(Entry(inner, descriptor, registry.manifest(inner).data))
        return out

    def push(self, target: Reference, entries: list[Entry]) -> Found:
        """The index and all that it needs, the index last."""
        registry = self.of(target)
        for entry in entries:
            if entry.reference.repository != target.repository:
                for digest in entry.blobs:
                    registry.ensure_blob(target, entry.reference, digest)
                digest = entry.descriptor["digest"]
                inner = Found(entry.data, entry.descriptor["mediaType"], digest)
                registry.put_manifest(target._replace(tag="", digest=digest), inner)
        found = index(entries)
        registry.put_manifest(target, found)
        return found


def _lists(call: Call) -> Lists:
    return Lists(folder(call.options, os.environ))


def _inspect(call: Call) -> None:
    *of_list, name = call.arguments
    lists, reference = _lists(call), _reference(name)
    if of_list:
        listed = _reference(of_list[0])
        entries = [entry for entry in lists.entries(listed) if entry.reference.complete == reference.complete]
        if not entries:
            raise CliError(f"No such manifest: {reference.familiar}")
        _show(entries[0].shown() if call.on("verbose") else json.loads(entries[0].data))
    elif reference in lists:
        kept = lists.entries(reference)
        _show([entry.shown() for entry in kept] if call.on("verbose") else index(kept).document())
    elif call.on("verbose"):
        shown = [entry.shown() for entry in _Registries(call, call.on("insecure")).entries(reference)]
        _show(shown if len(shown) > 1 else shown[0])
    else:
        _show(_Registries(call, call.on("insecure")).of(reference).manifest(reference).document())


def _show(document: Any) -> None:
    say(json.dumps(document, indent="\t", ensure_ascii=False))


def _create(call: Call) -> None:
    name, *images = call.arguments
    lists, target = _lists(call), _reference(name)
    if target in lists and not call.on("amend"):
        raise CliError(f"refusing to amend an existing manifest list with no --amend flag: {target.familiar}")
    registries = _Registries(call, call.on("insecure"))
    entries = [entry for image in images for entry in registries.entries(_reference(image))]
    for entry in entries:
        lists.put(target, entry)
    say(f"Created manifest list {target.complete}")


def _annotate(call: Call) -> None:
    lists, target, image = _lists(call), _reference(call.arguments[0]), _reference(call.arguments[1])
    found = [entry for entry in lists.entries(target) if entry.reference.complete == image.complete]
    if not found:
        raise CliError(f"manifest for image {image.familiar} does not exist in {target.familiar}")
    platform = found[0].descriptor.setdefault("platform", {})
    for key, name in (("os", "os"), ("arch", "architecture"), ("variant", "variant"), ("os-version", "os.version")):
        if call.text(key):
            platform[name] = call.text(key)
    if call.texts("os-features"):
        platform["os.features"] = call.texts("os-features")
    lists.put(target, found[0])


def _push(call: Call) -> None:
    lists, target = _lists(call), _reference(call.arguments[0])
    entries = lists.entries(target)
    for entry in entries:
        platform = entry.descriptor.get("platform") or {}
        if not platform.get("os") or not platform.get("architecture"):
            raise CliError(
                f"manifest {entry.reference.familiar} must have an OS and Architecture to be pushed to a registry"
            )
    say(_Registries(call, call.on("insecure")).push(target, entries).digest)
    if call.on("purge"):
        lists.remove(target)


def _remove(call: Call) -> int:
    lists = _lists(call)
    return each(call.arguments, lambda name: lists.remove(_reference(name)))


def _tools_create(call: Call) -> None:
    tags = [_reference(text) for text in call.texts("tag")]
    if not tags and not call.on("dry-run"):
        raise CliError("at least one tag (-t) is needed, or --dry-run")
    registries = _Registries(call, call.on("insecure"))
    entries = [entry for image in call.arguments for entry in registries.entries(_reference(image))]
    if call.on("dry-run"):
        say(index(entries).data.decode())
        return
    for target in tags:
        say(f"{registries.push(target, entries).digest} {target.complete}")


def _tools_inspect(call: Call) -> None:
    reference = _reference(call.arguments[0])
    found = _Registries(call, call.on("insecure")).of(reference).manifest(reference)
    if call.on("raw"):
        say(found.data.decode())
        return
    say(f"Name:      {reference.complete}\nMediaType: {found.media_type}\nDigest:    {found.digest}")
    for descriptor in found.document().get("manifests", []):
        platform = descriptor.get("platform") or {}
        shown = "/".join(platform[name] for name in ("os", "architecture", "variant") if platform.get(name))
        say(f"\n  Name:      {reference.repository}@{descriptor['digest']}\n  MediaType: {descriptor['mediaType']}")
        say(f"  Platform:  {shown}")


_INSECURE = flag("--insecure", "Allow communication with an insecure registry")
inspect = Body(_inspect, (_INSECURE, flag("-v --verbose", "Output additional info including layers and platform")))
create = Body(_create, (flag("-a --amend", "Amend an existing manifest list"), _INSECURE))
annotate = Body(
    _annotate,
    (
        value("--arch", "Set architecture"),
        value("--os", "Set operating system"),
        many("--os-features", "Set operating system feature"),
        value("--os-version", "Set operating system version"),
        value("--variant", "Set architecture variant"),
    ),
)
push = Body(_push, (_INSECURE, flag("-p --purge", "Remove the local manifest list after push")))
remove = Body(_remove)
tools_create = Body(
    _tools_create,
    (
        flag("--dry-run", "Show final image instead of pushing"),
        _INSECURE,
        many("-t --tag", "Set reference for new image"),
    ),
)
tools_inspect = Body(_tools_inspect, (_INSECURE, flag("--raw", "Show original, unformatted JSON manifest")))
