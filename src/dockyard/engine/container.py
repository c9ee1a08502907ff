"""One container as the engine knows it, in memory: its rows, its live connection, who waits for it.

Owns: `Container` and `Registry` (look up by id, name or the beginning of an id, by image and by volume). Does not own:
what happens to a container (`starting`, `stopping`, `removing`, …) nor its rows (`store.containers`).

Reads take no lock: `status` is changed by the event loop only, in one step each time.
"""

from __future__ import annotations

import asyncio
import socket
from bisect import bisect_left, insort
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dockyard.model.container import ContainerConfig, EndpointSettings, HostConfig, PortBinding
from dockyard.model.errors import InvalidArgument, NotFound
from dockyard.model.lifecycle import Desired, Event, State, Status, next_state
from dockyard.model.mounts import MountPoint
from dockyard.runtime.handles import ContainerHandle
from dockyard.store.containers import ContainerRow, ContainerSpec


class WaitResult(NamedTuple):
    """How a wait ended: the exit code, and why there is none of the program's own ("" = no error)."""

    code: int
    error: str = ""


class Pending(NamedTuple):
    """A client that attached before the start: the runtime's end of its socket pair, and what it wants."""

    stream: socket.socket
    stdin: bool
    stdout: bool
    stderr: bool


class Container:
    """One container. Attributes without an underscore are for reading by `edge`; only the engine changes them."""

    __slots__ = (
        "_waiters", "cleaner", "desired", "directory", "dirty", "exec_ids", "handle", "hold", "id", "lock", "name",
        "oom_told", "over", "pause_before_restart", "pending", "removed", "restarting", "run_directory", "spec",
        "spool", "status", "watcher", "written",
    )  # fmt: skip

    def __init__(self, row: ContainerRow, directory: Path, run_directory: Path, spool: Path | None = None) -> None:
        """`directory`: its files on disk; `run_directory`: its run-time state while it runs; `spool`: where its log
        waits for the shipper, if its driver sends it away."""
        self.id = row.id
        self.name = row.name  # without the slash
        self.spec: ContainerSpec = row.spec
        self.status: Status = row.status
        self.desired: Desired = row.desired
        self.directory = str(directory)
        self.run_directory = str(run_directory)
        self.spool = str(spool or directory)
        self.lock = asyncio.Lock()  # held by whoever changes the container; never by readers
        self.handle: ContainerHandle | None = None
        self.watcher: asyncio.Task[None] | None = None  # ends once the exit has been dealt with
        self.cleaner: asyncio.Task[None] | None = None  # writes the exit down, then clears the run-time directory
        self.restarting: asyncio.Task[None] | None = None  # sleeps before the policy starts it again
        self.pause_before_restart = 0  # ns, the last one
        self.pending: list[Pending] = []
        self.exec_ids: list[str] = []
        self.removed = False
        self.oom_told = False  # during this run the event "oom" has been told
        self.over = ""  # why the engine itself ends this run, to be told as its error
        self.hold = False  # a client restarts it: its exit does not take it away, even with `--rm`
        self.written: asyncio.Task[None] | None = None  # the latest write of status
        self.dirty = False  # that write has not looked at the status yet
        self._waiters: dict[str, list[asyncio.Future[WaitResult]]] = {}

    # --- what was asked ---

    @property
    def created_at(self) -> int:
        """ns since the epoch."""
        return self.spec.created_at

    @property
    def config(self) -> ContainerConfig:
        return self.spec.config

    @property
    def host(self) -> HostConfig:
        return self.spec.host

    @property
    def image_id(self) -> str:
        return self.spec.image_id

    @property
    def image_ref(self) -> str:
        return self.spec.image_ref

    @property
    def path(self) -> str:
        return self.spec.path

    @property
    def args(self) -> list[str]:
        return self.spec.args

    @property
    def mounts(self) -> list[MountPoint]:
        return self.spec.mounts

    @property
    def volumes(self) -> set[str]:
        """The names of its volumes."""
        return {point.name for point in self.spec.mounts if point.type == "volume"}

    @property
    def labels(self) -> dict[str, str]:
        return self.spec.config.labels or {}

    # --- what it is ---

    @property
    def state(self) -> State:
        return self.status.state

    @property
    def running(self) -> bool:
        """Whether it has a process."""
        return self.status.running

    @property
    def endpoints(self) -> dict[str, EndpointSettings]:
        """By network name: what it got while it runs, what was asked otherwise."""
        return self.status.endpoints or self.spec.networks

    @property
    def ports(self) -> dict[str, list[PortBinding] | None]:
        """Where its ports are published now; empty when it does not run."""
        return self.status.ports

    # --- where its files lie ---

    @property
    def log_path(self) -> str:
        """The json-file log, as clients are told; "" for another driver."""
        return f"{self.directory}/{self.id}-json.log" if self.spec.log_driver == "json-file" else ""

    @property
    def journal_path(self) -> str:
        """Where its monitor writes what it prints, whatever the driver; "" for none."""
        driver = self.spec.log_driver
        if driver in ("json-file", "none"):
            return self.log_path
        return f"{self.directory if driver == 'local' else self.spool}/{self.id}-local.log"

    @property
    def hostname_path(self) -> str:
        return f"{self.directory}/hostname"

    @property
    def hosts_path(self) -> str:
        return f"{self.directory}/hosts"

    @property
    def resolv_path(self) -> str:
        return f"{self.directory}/resolv.conf"

    # --- rules ---

    def check(self, event: Event, ref: str = "") -> State:
        """The state after `event`; raises Conflict or NotModified as the lifecycle table says."""
        return next_state(self.status.state, event, id=self.id, name=self.name, ref=ref)

    def row(self) -> ContainerRow:
        return ContainerRow(self.id, self.name, self.spec, self.status, self.desired)

    # --- waiting ---

    def add_waiter(self, condition: str) -> asyncio.Future[WaitResult]:
        """A future for "next-exit", "not-running" or "removed"; resolved by `wake`, dropped when cancelled."""
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(condition, [])
        waiters.append(future)
        future.add_done_callback(lambda done: waiters.remove(done) if done in waiters else None)
        return future

    def wake(self, *conditions: str) -> None:
        """Resolve who waits for one of `conditions` with the exit as it is now."""
        result = WaitResult(self.status.exit_code, self.status.error)
        for condition in conditions:
            for future in self._waiters.pop(condition, []):
                if not future.done():
                    future.set_result(result)

    def drop_pending(self) -> None:
        """Close the sockets of clients that attached to something that will not start."""
        for pending in self.pending:
            pending.stream.close()
        self.pending.clear()


class Registry:
    """Every container of this engine, by id, name and beginning of id.

    Also by what never changes about one (its image, its volumes) and whether it was made with links: of ten thousand
    that have ended, few matter to a start or a removal.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, Container] = {}
        self._sorted: list[str] = []
        self._reserved: dict[str, str] = {}  # name -> id of a container being created or renamed
        self._by_image = _Groups()
        self._by_volume = _Groups()
        self._with_links: dict[str, Container] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Container]:
        """In order of creation. A snapshot: containers may come and go meanwhile."""
        return iter(list(self._by_id.values()))

    def get(self, ref: str) -> Container:
        """By id, name (with or without slash) or unambiguous beginning of an id.

        NotFound "No such container: REF"; InvalidArgument for an ambiguous beginning.
        """
        found = self.find(ref)
        if found is None:
            raise NotFound(f"No such container: {ref}")
        return found

    def find(self, ref: str) -> Container | None:
        found = self._by_id.get(ref) or self._by_name.get(ref.removeprefix("/"))
        if found is not None or not ref:
            return found
        at = bisect_left(self._sorted, ref)
        candidates = [id_ for id_ in self._sorted[at : at + 2] if id_.startswith(ref)]
        if len(candidates) > 1:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {ref}")
        return self._by_id[candidates[0]] if candidates else None

    def holder(self, name: str) -> str | None:
        """The id of who has a name, or is about to have it."""
        found = self._by_name.get(name)
        return found.id if found is not None else self._reserved.get(name)

    def reserve(self, name: str, container_id: str) -> None:
        """Hold a free name while its row is being written; end with `add`, `rename` or `release`."""
        self._reserved[name] = container_id

    def release(self, name: str) -> None:
        self._reserved.pop(name, None)

    def of_image(self, image_id: str) -> list[Container]:
        """Those made of an image, in order of creation."""
        return self._by_image.get(image_id)

    def of_volume(self, name: str) -> list[Container]:
        """Those that have a volume, in order of creation."""
        return self._by_volume.get(name)

    def made_with_links(self) -> list[Container]:
        """In order of creation; their links may have been taken away since."""
        return list(self._with_links.values())

    def add(self, container: Container) -> None:
        self._by_id[container.id] = container
        self._by_name[container.name] = container
        insort(self._sorted, container.id)
        self.release(container.name)
        self._by_image.add(container.image_id, container)
        for name in container.volumes:
            self._by_volume.add(name, container)
        if container.host.links:
            self._with_links[container.id] = container

    def rename(self, container: Container, name: str) -> None:
        self._by_name.pop(container.name, None)
        container.name = name
        self._by_name[name] = container
        self.release(name)

    def discard(self, container: Container) -> None:
        if self._by_id.pop(container.id, None) is None:
            return
        if self._by_name.get(container.name) is container:
            del self._by_name[container.name]
        del self._sorted[bisect_left(self._sorted, container.id)]
        self._by_image.discard(container.image_id, container)
        for name in container.volumes:
            self._by_volume.discard(name, container)
        self._with_links.pop(container.id, None)


class _Groups:
    """Containers by something that they have."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, Container]] = {}  # key -> by id

    def get(self, key: str) -> list[Container]:
        return list(self._groups.get(key, {}).values())

    def add(self, key: str, container: Container) -> None:
        self._groups.setdefault(key, {})[container.id] = container

    def discard(self, key: str, container: Container) -> None:
        group = self._groups.get(key, {})
        group.pop(container.id, None)
        if not group:
            self._groups.pop(key, None)
