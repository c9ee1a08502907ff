"""The process beside each container: parent of its first process, keeper of its streams, witness of its exit.

Owns: the container's streams and log, the processes exec'd into it, the socket `monitor.sock` and the record
`exit.json` in the container's run directory. Outlives the daemon and the zygote; when it dies itself, the kernel kills
the container's first process (PDEATHSIG). Does not own: taking away what the container had (`runtime.ending`), nor
decisions. It is told what to run, and reports.

Requests come as messages {"op", "seq", …} and are answered {"seq", …} or {"seq", "error", "code"}; events have no seq:
{"event": "exit", …ExitRecord}, {"event": "exec-exit", "id", "code", …}. Standard library only: it is a fork of the
zygote and shares its pages, so what takes memory is left to children that end (`runtime.setup`, the exec'd processes)
and nothing here may grow with the container's age.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from dockyard.linux import process, pty
from dockyard.linux.nfnetlink import SharedElements
from dockyard.runtime import channel, ending, entering, following, setup
from dockyard.runtime.cgroups import Cgroup, kill_part, open_cgroup
from dockyard.runtime.foreign import joining
from dockyard.runtime.foreign.command import Command
from dockyard.runtime.setup import Made
from dockyard.runtime.streams import Streams
from dockyard.store.journal.buffered import BufferedLog
from dockyard.store.journal.writer import Host, LogWriter

NAME = b"dockyard-mon"
_LINGER = 30.0  # s; how long a client may take to fetch the rest of the output of a container that has ended
_GRACE = 0.2  # s; how long a stranger may go on writing into the pipes of a process that has ended


class _Process:
    """An exec'd process. `part`: the directory of the part of the group that it and its children are in, or "";
    `deadline`: when it is ended (monotonic clock, s), 0: never."""

    __slots__ = ("deadline", "id", "part", "pid", "pidfd", "streams", "terminal", "timed_out")

    def __init__(self, identity: str, spawned: following.Spawned, streams: Streams, part: str, timeout: float) -> None:
        self.id = identity
        self.part = part
        self.deadline = time.monotonic() + timeout if timeout else 0.0
        self.timed_out = False
        self.pid = spawned.pid
        self.pidfd = spawned.pidfd
        self.terminal = spawned.master
        self.streams = streams


class Monitor(Host):
    """The monitor of one container."""

    def __init__(self, made: Made, fds: list[int], seccomp: int, rules: SharedElements | None) -> None:
        """`fds` as `Made` says; `seccomp`: memfd or -1, for execs; `rules`: the zygote's socket."""
        self._made = made
        self._rules = rules
        self._seccomp = seccomp
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._directory = fds.pop(0)
        self._listener = socket.socket(fileno=fds.pop(0))
        self._gate = fds.pop(0) if made.gated else -1
        self._sync: socket.socket | None = None  # with a gate: the first process's reports
        self._terminal = self._slave = -1
        self._pipes = (-1, -1, -1) if made.tty else (fds.pop(0), fds.pop(0), fds.pop(0))
        self._ports = fds  # they hold the published ports
        self._pid = made.pid
        self._pidfd = os.pidfd_open(made.pid)  # our child, not reaped: nobody else can have this number
        self._connections: dict[int, socket.socket] = {}
        self._execs: dict[str, _Process] = {}
        self._log = _make_log(made.log, self)
        self._streams = Streams(self, time.time_ns, self._log, stdin_once=made.stdin_once)
        self._lingering: list[Streams] = []  # of processes that have ended, with clients that still fetch
        self._ended = False
        self._deadline = 0.0
        self._frozen = False
        self._holder: socket.socket | None = None  # whose end ends the frost, too
        self._parts_left = ""  # where parts of the group lie that still held processes when theirs had ended

    # the loop -------------------------------------------------------------------------------------------------------

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        if fd in self._callbacks:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def run(self) -> None:
        """Serve until the container has ended and its clients are served."""
        while not (self._ended and all(streams.settled for streams in self._lingering)):
            timeout = self._expire() if self._execs else -1.0
            if self._ended:
                timeout = self._deadline - time.monotonic()
                if timeout <= 0:
                    return
            for fd, events in self._epoll.poll(timeout):
                callback = self._callbacks.get(fd)
                if callback is not None:
                    callback(events)

    def _expire(self) -> float:
        """End the exec'd processes whose time is over; how long until the next one's is (s), -1: there is none."""
        next_one = -1.0
        for running in self._execs.values():
            if not running.deadline:
                continue
            left = running.deadline - time.monotonic()
            if left <= 0:
                running.deadline, running.timed_out = 0.0, True
                self._end(running)
            elif next_one < 0 or left < next_one:
                next_one = left
        return next_one

    # start ----------------------------------------------------------------------------------------------------------

    def prepare(self, control: socket.socket, attached: list[int]) -> None:
        """All that can be done before the program runs."""
        for fd, (stdin, stdout, stderr) in zip(attached, self._made.attached, strict=True):
            self._streams.attach(socket.socket(fileno=fd), stdin=stdin, stdout=stdout, stderr=stderr)
        self.watch(self._listener.fileno(), select.EPOLLIN, self._accept)
        self._serve(control)

    def start(self, fds: list[int]) -> None:
        """The program runs: take up its streams. `fds`: as `setup.Made` says of its second message."""
        made = self._made
        if made.gated:
            self._sync = socket.socket(fileno=fds.pop(0))
        if made.tty:
            self._terminal, self._slave = fds
        if made.tty:
            self._streams.use_terminal(self._terminal)
        else:
            self._streams.use_pipes(*self._pipes)
        self.watch(self._pidfd, select.EPOLLIN, lambda _events: self._on_exit())

    # for the log ----------------------------------------------------------------------------------------------------

    def log_trouble(self, text: str) -> None:
        """The log cannot be written, or can be again: for the daemon's log, or our own when there is no daemon."""
        for connection in list(self._connections.values()):
            self._tell(connection, {"event": "log", "text": text})
        if not self._connections:
            print(text, file=sys.stderr, flush=True)

    # the end --------------------------------------------------------------------------------------------------------

    def _on_exit(self) -> None:
        """The container's first process has ended: everything of the container goes, then the record is written."""
        self.unwatch(self._pidfd)
        _, status = os.waitpid(self._pid, 0)
        finished = time.time_ns()
        self._reap()
        code = os.waitstatus_to_exitcode(status)
        record = {"code": code if code >= 0 else 128 - code, "finished_at": finished, "oom_killed": False, "error": ""}
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1
        self._finish_streams(self._streams)
        for exec_process in list(self._execs.values()):
            self._on_exec_exit(exec_process)
        if self._made.networked:
            ending.detach_network(self._directory, self._rules)
        channel.close_all(self._ports)
        record["oom_killed"] = ending.take_away(self._made, self._cgroup())
        if self._log is not None:
            self._log.close()
        self._write("exit.json", record, instead_of="state.json")
        for connection in list(self._connections.values()):
            self._tell(connection, {"event": "exit", **record})
        self.unwatch(self._listener.fileno())
        self._listener.close()
        self._ended = True
        self._deadline = time.monotonic() + _LINGER

    def _write(self, name: str, record: dict[str, Any], instead_of: str = "") -> None:
        """A disk that refuses is no reason to end: that would take the container with it."""
        try:
            channel.write_record(self._directory, name, record, instead_of)
        except OSError as error:
            print(f"{name} of {self._made.identity} is not written: {error}", file=sys.stderr, flush=True)

    def _cgroup(self) -> Cgroup | None:
        """Opened each time: what that allocates is not kept in every monitor."""
        return open_cgroup(self._made.cgroup) if self._made.cgroup else None

    def _finish_streams(self, streams: Streams) -> None:
        """Read the rest. Only a process outside the container's own pid namespace can still hold the pipes open."""
        deadline = time.monotonic() + _GRACE
        while not streams.complete:
            streams.drain_ready()
            if streams.complete or time.monotonic() > deadline:
                break
            time.sleep(0.002)
        streams.drain()
        self._lingering = [each for each in (*self._lingering, streams) if not each.settled]

    def _reap(self) -> None:
        """Strangers that were handed to this subreaper; exec'd processes are reaped by their own pidfds."""
        ours = {exec_process.pid for exec_process in self._execs.values()}
        if self._log is not None:
            ours.add(self._log.child)
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours:
                return
            os.waitpid(found.si_pid, 0)

    # connections ----------------------------------------------------------------------------------------------------

    def _accept(self, _events: int) -> None:
        connection = channel.accept(self._listener)
        if connection is not None:
            self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        self._connections[connection.fileno()] = connection
        self.watch(connection.fileno(), select.EPOLLIN, lambda _events: self._on_request(connection))

    def _drop(self, connection: socket.socket) -> None:
        fd = connection.fileno()
        if fd >= 0:
            self.unwatch(fd)
            self._connections.pop(fd, None)
            connection.close()
        if connection is self._holder:
            self._holder = None
            self._thaw()

    def _thaw(self) -> None:
        """Who froze the container for a moment has gone without a word."""
        cgroup = self._cgroup()
        if cgroup is not None and self._frozen:
            try:
                cgroup.freeze(False)
                self._frozen = False
            except OSError:
                pass  # it has ended

    def _tell(self, connection: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        if connection.fileno() < 0:
            return
        try:
            channel.send(connection, message, fds)
        except OSError:
            self._drop(connection)

    def _on_request(self, connection: socket.socket) -> None:
        try:
            received = channel.receive(connection)
        except (OSError, ValueError):
            received = None
        if received is None:
            self._drop(connection)
            return
        message, fds = received
        answer: dict[str, Any]
        try:
            handler = _HANDLERS.get(message.get("op", ""))
            if handler is None:
                channel.close_all(fds)
                answer = {"error": f"unknown request {message.get('op')!r}"}
            else:
                answer = handler(self, message, fds, connection)
        except following.SpawnFailed as failed:
            answer = {"error": failed.message, "code": failed.code}
        except OSError as error:
            answer = {"error": following.describe(error)}
        except Exception as error:  # a daemon of another version may ask otherwise: the container runs on
            traceback.print_exc()
            answer = {"error": f"the container's monitor does not understand: {error!r}"}
        self._tell(connection, {"seq": message.get("seq"), **answer})

    # requests -------------------------------------------------------------------------------------------------------

    def _state(self, _message: dict[str, Any], _fds: list[int], _connection: socket.socket) -> dict[str, Any]:
        return {**self._made.started, "frozen": self._frozen, "execs": {e.id: e.pid for e in self._execs.values()}}

    def _begin(self, _message: dict[str, Any], _fds: list[int], _connection: socket.socket) -> dict[str, Any]:
        if self._gate < 0:
            return {"error": "the container has begun already"}
        os.write(self._gate, b"g")
        os.close(self._gate)
        self._gate = -1
        assert self._sync is not None
        following.await_program(following.Spawned(self._pid, self._pidfd, self._sync, None))
        return {}

    def _kill(self, message: dict[str, Any], _fds: list[int], _connection: socket.socket) -> dict[str, Any]:
        """An exec'd process that is killed takes all that it has started with it."""
        if not message.get("exec"):
            process.pidfd_send_signal(self._pidfd, message["signal"])
            return {}
        running = self._execs.get(message["exec"])
        if running is None:
            return {"error": "the process has ended"}
        if message["signal"] == signal.SIGKILL:
            self._end(running)
        else:
            process.pidfd_send_signal(running.pidfd, message["signal"])
        return {}

    def _end(self, running: _Process) -> None:
        try:
            process.pidfd_send_signal(running.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has just ended
        if running.part:
            try:
                kill_part(running.part)
            except OSError:
                traceback.print_exc()

    def _attach(self, message: dict[str, Any], fds: list[int], _connection: socket.socket) -> dict[str, Any]:
        self._streams.attach(
            socket.socket(fileno=fds[0]), stdin=message["stdin"], stdout=message["stdout"], stderr=message["stderr"]
        )
        return {}

    def _resize(self, message: dict[str, Any], _fds: list[int], _connection: socket.socket) -> dict[str, Any]:
        if message.get("exec"):
            running = self._execs.get(message["exec"])
            terminal = running.terminal if running else -1
        else:
            terminal = self._terminal
        if terminal < 0:
            return {"error": "the process has no terminal"}
        pty.set_size(terminal, message["height"], message["width"])
        return {}

    def _freeze(self, message: dict[str, Any], _fds: list[int], connection: socket.socket) -> dict[str, Any]:
        cgroup = self._cgroup()
        if cgroup is None:
            return {"error": "the container has no control group"}
        cgroup.freeze(message["frozen"])
        self._frozen = message["frozen"]
        self._holder = connection if message.get("held") else None
        return {}

    def _pids(self, _message: dict[str, Any], _fds: list[int], _connection: socket.socket) -> dict[str, Any]:
        cgroup = self._cgroup()
        return {"pids": cgroup.pids() if cgroup else [self._pid]}

    def _exec(self, message: dict[str, Any], fds: list[int], connection: socket.socket) -> dict[str, Any]:
        """Descriptors: the spec in a memfd (for the child to read), then the client's stream if there is one."""
        cgroup, timeout = self._cgroup(), message.get("timeout") or 0.0
        name = f"exec-{message['id'][:12]}" if cgroup is not None else ""
        part = cgroup.part(name) if cgroup is not None else ""
        stream = socket.socket(fileno=fds[1]) if len(fds) > 1 else None
        streams = Streams(self, time.time_ns, None, stdin_once=True)
        theirs, ours = (None, None) if message["tty"] else setup.make_pipes(message["open_stdin"])
        try:
            if self._made.runtime is not None:
                command = Command(self._made.runtime, self._made.directory)
                spawned = joining.spawn_exec(command, self._made.identity, self._pid, fds[0], theirs, part)
            else:
                spawned = entering.spawn_sealed_exec(
                    fds[0], self._pidfd, self._made.cgroup, theirs, self._seccomp, name
                )
        except BaseException:
            channel.close_all(ours or ())
            self._remove_part(part)
            if stream is not None:
                stream.close()
            raise
        finally:
            channel.close_all([fds[0], *(theirs or ())])
        if stream is not None:
            streams.attach(stream, stdin=message["open_stdin"], stdout=True, stderr=True)
        if ours is None:
            os.close(spawned.slave)
            streams.use_terminal(spawned.master)
        else:
            streams.use_pipes(*ours)
        running = _Process(message["id"], spawned, streams, part, timeout)
        self._execs[running.id] = running
        self.watch(spawned.pidfd, select.EPOLLIN, lambda _events: self._on_exec_exit(running))
        return {"pid": spawned.pid}

    def _on_exec_exit(self, running: _Process) -> None:
        if self._execs.pop(running.id, None) is None:
            return
        self.unwatch(running.pidfd)
        try:
            _, status = os.waitpid(running.pid, 0)
            code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            code = -signal.SIGKILL
        os.close(running.pidfd)
        self._remove_part(running.part)
        record = {"code": code if code >= 0 else 128 - code, "finished_at": time.time_ns()}
        if running.timed_out:
            record["timed_out"] = True
        if not self._connections:  # no daemon: the next one reads it
            self._write(f"exec-{running.id}.json", record)
        for connection in list(self._connections.values()):  # before the streams end: who sees that asks for the code
            self._tell(connection, {"event": "exec-exit", "id": running.id, **record})
        self._finish_streams(running.streams)

    def _remove_part(self, part: str) -> None:
        """Take a part of the group away, and others that were still in use when their process had ended. What a
        process has left running keeps its part, until the next exec ends or the container does."""
        if not part:
            return
        above = os.path.dirname(part)
        left = [part]
        if self._parts_left:
            left += [entry.path for entry in os.scandir(above) if entry.name.startswith("exec-")]
        self._parts_left = ""
        for directory in left:
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError:
                self._parts_left = above


def _make_log(spec: Mapping[str, Any] | None, host: Host) -> LogWriter | BufferedLog | None:
    if spec is None:
        return None
    return (BufferedLog if spec.get("buffer") else LogWriter)(spec, host)  # type: ignore[arg-type]


_Handler = Callable[[Monitor, dict[str, Any], list[int], socket.socket], dict[str, Any]]
_HANDLERS: dict[str, _Handler] = {
    "state": Monitor._state,
    "begin": Monitor._begin,
    "kill": Monitor._kill,
    "attach": Monitor._attach,
    "resize": Monitor._resize,
    "freeze": Monitor._freeze,
    "pids": Monitor._pids,
    "exec": Monitor._exec,
}
