"""Container Device Interface: what a vendor's specification says of devices, and which devices a request means.

Owns: the shape of a specification (versions 0.1 to 1.0), its checks, the catalog of devices out of several of them with
precedence and conflicts, names, the devices that a `DeviceRequest` asks for. Does not own: finding and reading the
files, putting edits into a configuration (`runtime.bundle.cdi`). Pure.
Source: github.com/cncf-tags/container-device-interface, SPEC.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from dockyard.model.container import DeviceRequest
from dockyard.model.errors import InvalidArgument

DRIVER: Final = "cdi"
VERSIONS: Final = ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0")
HOOKS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_VENDOR: Final = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?\Z")
_DEVICE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?\Z")
_NVIDIA_CAPABILITIES: Final = frozenset(
    ("gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display")
)
# Docker's GPU drivers, in the order in which a request without a driver tries them: name, CDI kind, what it can.
_GPUS: Final = (
    ("nvidia", "nvidia.com/gpu", _NVIDIA_CAPABILITIES),
    ("amd", "amd.com/gpu", frozenset(("gpu", "amd"))),
)


class SpecError(ValueError):
    """A specification that cannot be used; the text says what is wrong in it, not which file it is."""


class _Part(Struct, rename="camel", forbid_unknown_fields=True):
    pass


class DeviceNode(_Part):
    path: str
    host_path: str = ""  # "": the same
    type: str = ""  # b, c, u, p; "": what it is on the host
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Part):
    host_path: str
    container_path: str
    options: list[str] = []
    type: str = ""


class Hook(_Part):
    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None  # seconds


class Edits(_Part):
    """What a container that has the device gets."""

    env: list[str] = []
    device_nodes: list[DeviceNode] = []
    mounts: list[Mount] = []
    hooks: list[Hook] = []
    additional_gids: list[int] = msgspec.field(default_factory=list, name="additionalGids")
    intel_rdt: dict[str, Any] | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__struct_fields__)


class Device(_Part):
    name: str
    container_edits: Edits
    annotations: dict[str, str] = {}


class Spec(_Part):
    cdi_version: str
    kind: str
    devices: list[Device]
    container_edits: Edits | None = None
    annotations: dict[str, str] = {}


def convert(document: object) -> Spec:
    """A specification out of JSON's or YAML's values. SpecError."""
    try:
        spec = msgspec.convert(document, Spec)
    except msgspec.ValidationError as error:
        raise SpecError(str(error)) from None
    _check(spec)
    return spec


# --- checks ---


def _check(spec: Spec) -> None:
    if spec.cdi_version not in VERSIONS:
        raise SpecError(f'unknown cdiVersion "{spec.cdi_version}"')
    vendor, slash, kind = spec.kind.partition("/")
    if not slash or not _VENDOR.match(vendor) or not _VENDOR.match(kind):
        raise SpecError(f'invalid kind "{spec.kind}": it is VENDOR/CLASS')
    names = [device.name for device in spec.devices]
    if not names:
        raise SpecError("it has no devices")
    for device in spec.devices:
        if not _DEVICE.match(device.name):
            raise SpecError(f'invalid device name "{device.name}"')
        if names.count(device.name) > 1:
            raise SpecError(f'device "{device.name}" is there twice')
        if not device.container_edits:
            raise SpecError(f'device "{device.name}" has no edits')
        _check_edits(device.container_edits, f'device "{device.name}": ')
    _check_edits(spec.container_edits or Edits(), "")
    if VERSIONS.index(needed := _minimum_version(spec)) > VERSIONS.index(spec.cdi_version):
        raise SpecError(f"cdiVersion {spec.cdi_version} has not all that is used here: {needed} has")


def _check_edits(edits: Edits, where: str) -> None:
    for variable in edits.env:
        if variable.find("=") < 1:
            raise SpecError(f'{where}invalid environment variable "{variable.partition("=")[0]}"')
    for node in edits.device_nodes:
        if not node.path.startswith("/") or (node.host_path and not node.host_path.startswith("/")):
            raise SpecError(f'{where}device node "{node.path}": an absolute path is needed')
        if node.type not in ("", "b", "c", "u", "p"):
            raise SpecError(f'{where}device node {node.path}: invalid type "{node.type}"')
        if not set(node.permissions) <= set("rwm"):
            raise SpecError(f'{where}device node {node.path}: invalid permissions "{node.permissions}"')
    for mount in edits.mounts:
        if not mount.host_path or not mount.container_path.startswith("/"):
            raise SpecError(f'{where}mount "{mount.container_path}": hostPath and an absolute containerPath are needed')
    for hook in edits.hooks:
        if hook.hook_name not in HOOKS:
            raise SpecError(f'{where}unknown hook "{hook.hook_name}"')
        if not hook.path.startswith("/"):
            raise SpecError(f'{where}hook {hook.hook_name}: "{hook.path}" is no absolute path')


def _minimum_version(spec: Spec) -> str:
    every = [device.container_edits for device in spec.devices] + [spec.container_edits or Edits()]
    if any(edits.additional_gids or edits.intel_rdt is not None for edits in every):
        return "0.7.0"
    if spec.annotations or any(device.annotations for device in spec.devices) or "." in spec.kind.partition("/")[2]:
        return "0.6.0"
    nodes = [node for edits in every for node in edits.device_nodes]
    if any(node.host_path for node in nodes) or any(device.name[0].isdecimal() for device in spec.devices):
        return "0.5.0"
    if any(mount.type for edits in every for mount in edits.mounts):
        return "0.4.0"
    return VERSIONS[0]


# --- the catalog ---


class Found(NamedTuple):
    """A specification and where it lies. `priority`: the place of its directory; later ones come before earlier."""

    path: str
    priority: int
    spec: Spec


class Catalog(NamedTuple):
    """Every device that can be had. `problems`: what is wrong in the directories, one line each, files named."""

    devices: Mapping[str, tuple[Spec, Device]]  # "vendor/class=name" ->
    problems: Sequence[str]

    @classmethod
    def make(cls, found: Iterable[Found], problems: Iterable[str] = ()) -> Catalog:
        """Of a device in several directories the last one's counts; twice in one directory: it cannot be had."""
        holders: dict[str, list[Found]] = {}
        for each in found:
            for device in each.spec.devices:
                holders.setdefault(f"{each.spec.kind}={device.name}", []).append(each)
        devices, conflicts = {}, []
        for name, these in holders.items():
            highest = max(each.priority for each in these)
            best = [each for each in these if each.priority == highest]
            if len(best) > 1:
                conflicts.append(f"conflicting device {name}: {', '.join(each.path for each in best)}")
                continue
            spec = best[0].spec
            devices[name] = (spec, next(d for d in spec.devices if d.name == name.partition("=")[2]))
        return cls(devices, [*problems, *conflicts])

    def edits(self, names: Sequence[str]) -> list[Edits]:
        """The edits for these devices in order, each specification's own first. InvalidArgument in Docker's words."""
        unknown = [name for name in names if name not in self.devices]
        if unknown:
            text = f"CDI device injection failed: unresolvable CDI devices {', '.join(unknown)}"
            raise InvalidArgument("; ".join((text, *self.problems)))
        out: list[Edits] = []
        seen: list[Spec] = []
        for name in dict.fromkeys(names):
            spec, device = self.devices[name]
            if not any(spec is other for other in seen):
                seen.append(spec)
                out.append(spec.container_edits or Edits())
            out.append(device.container_edits)
        return out

    def _of_kind(self, kind: str) -> list[str]:
        return [name for name in self.devices if name.startswith(f"{kind}=")]


# --- requests ---


def wanted(requests: Sequence[DeviceRequest], catalog: Catalog | None) -> list[str]:
    """The names of the devices that are asked for. `catalog`: None where CDI is switched off.

    InvalidArgument in Docker's words: a driver that does not exist, a GPU where no specification has one.
    """
    names: list[str] = []
    for request in requests:
        if request.driver == DRIVER and catalog is not None:
            names += _of_cdi(request)
        else:
            names += _of_gpus(request, catalog)
    return names


def _of_cdi(request: DeviceRequest) -> list[str]:
    if request.count:
        raise InvalidArgument("unexpected count in CDI device request")
    if request.options:
        raise InvalidArgument("unexpected options in CDI device request")
    return list(request.device_ids or ())


def _of_gpus(request: DeviceRequest, catalog: Catalog | None) -> list[str]:
    groups = request.capabilities or []
    for driver, kind, abilities in _GPUS if catalog is not None else ():
        if request.driver not in ("", driver) or not any(abilities.issuperset(group) for group in groups):
            continue
        there = catalog._of_kind(kind) if catalog is not None else []
        if there:
            return _chosen(request, kind, there)
    listed = " ".join(f"[{' '.join(group)}]" for group in groups)
    raise InvalidArgument(f'could not select device driver "{request.driver}" with capabilities: [{listed}]')


def _chosen(request: DeviceRequest, kind: str, there: Sequence[str]) -> list[str]:
    """All of a kind (its device `all`, if there is one), so many of them, or those that are named."""
    if request.device_ids:
        if request.count:
            raise InvalidArgument("cannot set both Count and DeviceIDs on device request")
        return [each if "=" in each else f"{kind}={each}" for each in request.device_ids]
    every = f"{kind}=all"
    single = sorted((name for name in there if name != every), key=_natural)
    if request.count < 0:
        return [every] if every in there else single
    numbered = [name for name in single if name.partition("=")[2].isdecimal()] or single
    if request.count > len(numbered):
        raise InvalidArgument(f"{request.count} devices of {kind} are asked for, and there are {len(numbered)}")
    return numbered[: request.count]


def _natural(name: str) -> list[tuple[int, str]]:
    """gpu=2 before gpu=10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]
