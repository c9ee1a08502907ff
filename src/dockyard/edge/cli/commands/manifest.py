"""`dockyard manifest` and `dockyard imagetools`: images of several platforms under one name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from dockyard.edge.cli.call import Body, Call, each, say
from dockyard.edge.cli.commands.registries import reference_of
from dockyard.edge.cli.credentials import Credentials, folder
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.flags import flag, many, value
from dockyard.edge.cli.manifests import Entry, Lists, describe, index
from dockyard.edge.cli.registry import Found, Registry
from dockyard.edge.cli.registry_copy import Copier
from dockyard.edge.cli.show import show_one
from dockyard.proto.references import Reference


def _reference(text: str) -> Reference:
    return reference_of(text).with_default_tag()


class _Registries:
    """The registries that one command talks to."""

    def __init__(self, call: Call, insecure: bool) -> None:
        self._kept = Credentials(folder(call.options, os.environ), os.environ)
        self._insecure = insecure
        self._known: dict[str, Registry] = {}
        self.copied: list[Reference] = []

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

    def push(self, target: Reference, entries: list[Entry], annotations: dict[str, str] | None = None) -> Found:
        """The index and all that it needs, from wherever that is; the index last."""
        copier = Copier(self.of)
        for entry in entries:
            if copier.copy(entry.reference, entry.found, target):
                self.copied.append(target._replace(tag="", digest=entry.found.digest))
        found = index(entries, annotations)
        self.of(target).put_manifest(target, found)
        return found

    def copy(self, source: Reference, found: Found, target: Reference) -> None:
        """The very same manifest or index under another name."""
        Copier(self.of).copy(source, found, target)
        self.of(target).put_manifest(target, found)


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
    registries = _Registries(call, call.on("insecure"))
    digest = registries.push(target, entries).digest
    for reference in registries.copied:
        say(f"Pushed ref {reference.complete} with digest: {reference.digest}")
    say(digest)
    if call.on("purge"):
        lists.remove(target)


def _remove(call: Call) -> int:
    lists = _lists(call)
    return each(call.arguments, lambda name: lists.remove(_reference(name)))


def _tools_create(call: Call) -> None:
    tags = [_reference(text) for text in call.texts("tag")]
    if not tags and not call.on("dry-run"):
        raise CliError("at least one tag (-t) is needed, or --dry-run")
    if not call.arguments and not call.texts("file"):
        raise CliError("at least one source is needed")
    registries = _Registries(call, call.on("insecure"))
    sources = [_reference(image) for image in call.arguments]
    annotations = _annotations(call)
    if call.on("append"):
        if len(tags) != 1:
            raise CliError("--append needs exactly one tag")
        sources = [tags[0], *sources]
    whole = _whole(call, registries, sources) if not annotations else None
    if whole is not None:
        _deliver(call, whole, [lambda target: registries.copy(sources[0], whole, target)], tags)
        return
    entries = [entry for source in sources for entry in registries.entries(source)]
    entries += [_described(registries, path, tags) for path in call.texts("file")]
    entries = list({entry.found.digest: entry for entry in entries}.values())
    made = index(entries, annotations)
    _deliver(call, made, [lambda target: registries.push(target, entries, annotations)], tags)


def _whole(call: Call, registries: _Registries, sources: list[Reference]) -> Found | None:
    """The one source, if it is taken over as it is: an index, or an image that needs none around it."""
    if len(sources) != 1 or call.texts("file"):
        return None
    found = registries.of(sources[0]).manifest(sources[0])
    return found if found.is_index or call.text("prefer-index") == "false" else None


def _deliver(call: Call, made: Found, steps: list[Callable[[Reference], object]], tags: list[Reference]) -> None:
    if call.on("dry-run"):
        say(made.data.decode())
        return
    for target in tags:
        for step in steps:
            step(target)
        say(f"{made.digest} {target.complete}")


def _annotations(call: Call) -> dict[str, str]:
    """`--annotation [index:]KEY=VALUE`."""
    found = {}
    for text in call.texts("annotation"):
        key, separator, content = text.removeprefix("index:").partition("=")
        if not separator or not key:
            raise CliError(f"invalid annotation {text!r}: it is not KEY=VALUE")
        found[key] = content
    return found


def _described(registries: _Registries, path: str, tags: list[Reference]) -> Entry:
    """`--file`: a descriptor as JSON, of a manifest in the target's repository."""
    try:
        with open(path, encoding="utf-8") as file:
            descriptor = json.load(file)
        reference = tags[0]._replace(tag="", digest=descriptor["digest"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CliError(f"{path}: no descriptor of a manifest: {error}") from None
    found = registries.of(reference).manifest(reference)
    return Entry(reference, {**descriptor, "mediaType": found.media_type, "size": len(found.data)}, found.data)


def _tools_inspect(call: Call) -> None:
    reference = _reference(call.arguments[0])
    registries = _Registries(call, call.on("insecure"))
    found = registries.of(reference).manifest(reference)
    if call.on("raw"):
        os.write(1, found.data)
        return
    if call.text("format"):
        show_one(call.text("format"), _view(registries, reference, found))
        return
    say(f"Name:      {reference.complete}\nMediaType: {found.media_type}\nDigest:    {found.digest}")
    for descriptor in found.document().get("manifests", []):
        say(f"\n  Name:      {reference.repository}@{descriptor['digest']}\n  MediaType: {descriptor['mediaType']}")
        say(f"  Platform:  {_platform_of(descriptor)}")
        for key, content in sorted((descriptor.get("annotations") or {}).items()):
            say(f"  Annotation: {key}={content}")


def _platform_of(descriptor: dict[str, Any]) -> str:
    platform = descriptor.get("platform") or {}
    return "/".join(platform[name] for name in ("os", "architecture", "variant") if platform.get(name))


def _view(registries: _Registries, reference: Reference, found: Found) -> dict[str, Any]:
    """What a template sees: Name, Manifest, and Image: the configuration, of an index one for each platform."""
    manifest = {"mediaType": found.media_type, "digest": found.digest, "size": len(found.data), **found.document()}
    registry = registries.of(reference)

    def image(inner: Found) -> Any:
        config = inner.document().get("config")
        return json.loads(registry.blob(reference, config["digest"])) if config else None

    if not found.is_index:
        return {"Name": reference.complete, "Manifest": manifest, "Image": image(found)}
    images = {}
    for descriptor in found.document().get("manifests", []):
        name = _platform_of(descriptor)
        if name and not name.startswith("unknown/"):
            images[name] = image(registry.manifest(reference._replace(tag="", digest=descriptor["digest"])))
    return {"Name": reference.complete, "Manifest": manifest, "Image": images}


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
        many("--annotation", "Add annotation to the index"),
        flag("--append", "Append to existing manifest"),
        flag("--dry-run", "Show final image instead of pushing"),
        many("-f --file", "Read source descriptor from file"),
        _INSECURE,
        value("--prefer-index", "With one image as source, make an index around it (false: copy it)"),
        many("-t --tag", "Set reference for new image"),
    ),
)
tools_inspect = Body(
    _tools_inspect,
    (
        value("--format", "Format output: 'json' or a Go template"),
        _INSECURE,
        flag("--raw", "Show original, unformatted JSON manifest"),
    ),
)
