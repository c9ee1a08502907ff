"""The composition root: every service of the daemon, built once and wired.

Owns: which service gets which others and which settings, the order of start and end (an exit stack). Does not own: what
the services do, listening, the daemon's life (`daemon`).
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from dockyard.configuration import Configuration
from dockyard.configuration.options import OPTIONS
from dockyard.engine import Engine, cgroup_driver
from dockyard.engine.bridges import BridgeOptions
from dockyard.engine.context import Context
from dockyard.engine.events import Events
from dockyard.engine.images import Images
from dockyard.engine.labels import Labelling, label_store
from dockyard.engine.leases import Leases
from dockyard.engine.metrics import Metrics
from dockyard.engine.networks import Networks
from dockyard.engine.runtimes import known
from dockyard.engine.system import Settings
from dockyard.engine.transfers import Limits, Transfers
from dockyard.engine.volumes import Volumes
from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.proto import storageopts
from dockyard.proto.imagegc import Policy
from dockyard.proto.registries import RegistryRules
from dockyard.runtime import apparmor, relabelling, remap
from dockyard.runtime.bundle import Bundler, Host
from dockyard.runtime.bundle.cdi import Devices
from dockyard.runtime.client import Runtime
from dockyard.runtime.sealed import Code
from dockyard.store.builds.cache import BuildCache
from dockyard.store.containers import ContainerStore
from dockyard.store.db import Database
from dockyard.store.layout import Layout
from dockyard.store.leases import LeaseStore
from dockyard.store.networks import NetworkStore
from dockyard.store.snapshots import Snapshots
from dockyard.store.volumes import VolumeStore

log = logging.getLogger(__name__)

_DRIVERS = {"overlay2": "overlay"}  # Docker's names for drivers of ours


async def assemble(settings: Configuration, stack: AsyncExitStack, code: Code | None = None) -> Engine:
    """Build and start everything below `edge`; `stack` ends it in reverse. DockyardError if something cannot start.
    `code`: what the zygote and its children import from; by default a copy of the package as it is on disk now, which
    goes with the runtime."""
    layout = Layout(settings.data_root, settings.exec_root)
    layout.open()
    stack.callback(layout.close)
    database = Database(layout.database)
    database.open()
    stack.callback(database.close)
    runtime = await _start_runtime(layout, stack, code)
    events = Events(time.time_ns)
    stack.callback(events.close)
    driver = _DRIVERS.get(settings.storage_driver, settings.storage_driver)
    snapshots = Snapshots(layout, database, runtime.call, driver=driver)
    await snapshots.open()
    stack.push_async_callback(snapshots.close)
    build_cache = BuildCache(layout, database, snapshots, time.time_ns)
    await build_cache.open()
    images = Images(
        layout,
        database,
        snapshots,
        runtime.call,
        events=events,
        discard_blobs=settings.discard_blobs,
        collection=Policy.make(settings.image_gc_high, settings.image_gc_low, settings.image_gc_keep_last),
    )
    await images.open()
    stack.push_async_callback(images.close)
    for warning in (*snapshots.warnings, *images.warnings):
        log.warning("%s", warning)
    metrics = Metrics()
    networks = Networks(
        NetworkStore(database),
        _bridge_options(settings),
        runtime.call,
        clock=time.time_ns,
        relay_directory=str(layout.exec_root),
        metrics=metrics,
    )
    await networks.start()
    stack.push_async_callback(networks.close)
    devices = Devices(settings.cdi_directories)
    mapping = await _remap(settings, runtime)
    cgroups = cgroup_driver.choose(settings.cgroup_driver)
    cgroup_driver.check_parent(settings.cgroup_parent, cgroups)
    labelling = _labelling(settings.selinux_enabled)
    await label_store(labelling, layout.snapshots, runtime.call)
    context = Context(
        layout=layout,
        store=ContainerStore(database),
        runtime=runtime,
        bundler=_bundler(settings, devices, cgroups, mapping),
        snapshots=snapshots,
        images=images,
        networks=networks,
        volumes=Volumes(layout, VolumeStore(database), runtime.call, time.time_ns),
        leases=Leases(LeaseStore(database), events, time.time_ns),
        events=events,
        clock=time.time_ns,
        runtimes=known(settings.runtimes),
        cgroup_driver=cgroups,
        real_time=(settings.cpu_rt_period, settings.cpu_rt_runtime),
        labels=labelling,
        metrics=metrics,
        container_size=_container_size(settings, snapshots),
    )
    transfers = _transfers(settings, images)
    shown = _settings(settings, snapshots.driver, devices, cgroups, mapping is not None)
    shown = replace(shown, selinux=context.labels.enabled)
    engine = Engine.assemble(context, images, networks, shown, transfers, build_cache)
    users = engine.containers.users_of_image
    images.set_users(lambda image_id: [(user.id, user.running) for user in users(image_id)])
    await engine.open()
    stack.push_async_callback(engine.close)
    return engine


# What SIGHUP reads again: dockerd's, and trusted-realms.
_RELOADED = (
    "debug", "log_level", "labels", "shutdown_timeout", "max_concurrent_downloads", "max_concurrent_uploads",
    "max_download_attempts", "insecure_registries", "registry_mirrors", "allow_nondistributable_artifacts",
    "trusted_realms", "runtimes", "default_runtime", "default_shm_size", "default_ipc_mode", "default_cgroupns_mode",
)  # fmt: skip


def reload(engine: Engine, before: Configuration, read: Configuration) -> Configuration:
    """Let hold from now on what of `read` can change while the daemon runs; what holds then. InvalidArgument."""
    settings = replace(before, **{name: getattr(read, name) for name in _RELOADED})
    rules = _registry_rules(settings)  # refuses what is none, before anything is changed
    engine.transfers.reconfigure(
        rules,
        downloads=settings.max_concurrent_downloads,
        uploads=settings.max_concurrent_uploads,
        attempts=settings.max_download_attempts,
    )
    engine.context.runtimes = known(settings.runtimes)
    engine.system.settings = replace(
        engine.system.settings,
        debug=settings.debug,
        labels=settings.labels,
        registries=rules,
        runtimes=engine.context.runtimes,
        default_runtime=settings.default_runtime,
        shm_size=settings.default_shm_size,
        ipc_mode=settings.default_ipc_mode,
        cgroupns_mode=settings.default_cgroupns_mode,
    )
    shown = {option.key: _shown(getattr(settings, option.target)) for option in OPTIONS if option.target in _RELOADED}
    shown["name"] = engine.system.host.hostname
    engine.events.publish("daemon", "reload", engine.system.id, shown)
    return settings


def _shown(value: object) -> str:
    """A setting in the event of a reload."""
    if isinstance(value, dict):
        return " ".join(f"{name}:{runtime.path}" for name, runtime in value.items())
    return str(value) if isinstance(value, str) else json.dumps(value)


async def _start_runtime(layout: Layout, stack: AsyncExitStack, code: Code | None) -> Runtime:
    runtime = Runtime(str(layout.exec_root / "runtime.log"), code)
    try:
        await runtime.start()
    except OSError as error:
        raise SystemFailure(f"the runtime cannot start: {error}") from error
    stack.push_async_callback(runtime.close)
    return runtime


def _container_size(settings: Configuration, snapshots: Snapshots) -> int:
    """What `--storage-opt` lets a container write. InvalidArgument if the store cannot hold it to that."""
    size = storageopts.container_size(storageopts.parse(settings.storage_opts), snapshots.driver)
    if size and (reason := snapshots.why_no_limit()):
        raise InvalidArgument(f"storage-opt {snapshots.driver}.size: {reason}")
    return size


def _transfers(settings: Configuration, images: Images) -> Transfers:
    return Transfers(
        images.services,
        _registry_rules(settings),
        downloads=settings.max_concurrent_downloads,
        uploads=settings.max_concurrent_uploads,
        limits=Limits(downloads=settings.max_download_attempts),
    )


def _registry_rules(settings: Configuration) -> RegistryRules:
    return RegistryRules.make(
        settings.registry_mirrors,
        settings.insecure_registries,
        settings.trusted_realms,
        settings.allow_nondistributable_artifacts,
    )


def _bridge_options(settings: Configuration) -> BridgeOptions:
    defaults = BridgeOptions()
    return BridgeOptions(
        name=settings.bridge,
        bip=settings.bip,
        mtu=settings.mtu or defaults.mtu,
        icc=settings.icc,
        masquerade=settings.ip_masq,
        pools=tuple(settings.default_address_pools),
        default_ip=settings.ip or defaults.default_ip,
        host_gateway=settings.host_gateway_ip,
    )


def _bundler(settings: Configuration, devices: Devices, cgroups: str, mapping: remap.Remap | None) -> Bundler:
    profile = settings.seccomp_profile
    if profile.startswith("/"):
        try:
            profile = Path(profile).read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise InvalidArgument(f"opening seccomp profile ({settings.seccomp_profile}) failed: {why}") from None
    confined, warning = apparmor.load_default()
    if warning:
        log.warning("%s", warning)
    bundler = Bundler(
        Host.probe(),
        seccomp_profile=profile or "builtin",
        apparmor_profile=confined,
        default_ulimits=settings.default_ulimits,
        cdi_devices=devices,
        remap=mapping,
        no_new_privileges=settings.no_new_privileges,
        cgroup_driver=cgroups,
    )
    bundler.warm()
    return bundler


def _labelling(wanted: bool) -> Labelling:
    policy = relabelling.find_policy(wanted)
    if policy.warning:
        log.warning("%s", policy.warning)
    return Labelling(policy)


async def _remap(settings: Configuration, runtime: Runtime) -> remap.Remap | None:
    """Whose ids containers get. InvalidArgument, SystemFailure if that cannot be done here."""
    found = remap.resolve(settings.userns_remap)
    if found is None:
        if settings.userns_remap:
            log.warning("root cannot be remapped with itself: containers get no user namespaces")
        return None
    arguments = {"path": settings.data_root, "uids": found.uids, "gids": found.gids}
    if error := (await runtime.call("dockyard.runtime.remap:probe", arguments))["error"]:
        raise SystemFailure(f"--userns-remap: {settings.data_root} cannot be mounted with mapped owners: {error}")
    return found


def _settings(settings: Configuration, driver: str, devices: Devices, cgroups: str, userns: bool) -> Settings:
    """What `info` tells of the settings, and what containers get by default."""
    return Settings(
        data_root=settings.data_root,
        storage_driver=driver,
        debug=settings.debug,
        labels=settings.labels,
        log_driver=settings.log_driver,
        default_runtime=settings.default_runtime,
        runtimes=known(settings.runtimes),
        registries=_registry_rules(settings),
        address_pools=settings.default_address_pools,
        devices=devices,
        userns=userns,
        no_new_privileges=settings.no_new_privileges,
        log_opts=settings.log_opts,
        cgroup_parent=settings.cgroup_parent,
        cgroup_driver=cgroups,
        dns=settings.dns,
        dns_opts=settings.dns_opts,
        dns_search=settings.dns_search,
        init=settings.init,
        ipc_mode=settings.default_ipc_mode,
        cgroupns_mode=settings.default_cgroupns_mode,
        shm_size=settings.default_shm_size,
    )
