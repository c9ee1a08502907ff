"""One process that carries connections to published ports on IPv6 addresses to containers that have only IPv4.

Owns: the relay process, the socket `relay.sock` on which it takes ports over, copying streams and datagrams. Does not
own: which ports there are; binding them (`runtime.network`, in the setup of each container).

A kernel cannot translate between the two protocols, nor [::1] at all. Whoever publishes hands bound sockets over and
keeps the connection on which it did: when that ends (the container's monitor has, however it ended), the ports are let
go. So the relay needs no memory of containers, outlives the daemon, and ends by itself when nobody is left.

Messages: {"ports": [{"proto", "ip", "port"}, …]} with one descriptor each, answered {}. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from dockyard.linux import abi, calls, process
from dockyard.runtime import channel

SOCKET = "relay.sock"
_CHUNK = 128 << 10
_PATIENCE = 2.0  # seconds without anybody before the relay ends
_ROUND = 5.0  # seconds between looks at idle clients of UDP ports
_UDP_IDLE = 90.0  # seconds until a client's datagrams get a new port towards the container
_UDP_CLIENTS = 4096  # at once, for one port
_IPV6_PKTINFO, _IPV6_RECVPKTINFO = 50, 49
_CONTROL = 256  # bytes of ancillary data


def start(*, directory: str, fds: Sequence[int] = ()) -> bool:
    """In a worker: make sure that a relay serves `directory`; True if it had to be started. OSError."""
    home = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        channel.connect(home, SOCKET).close()
        return False
    except OSError:
        pass  # nobody, or the socket of one that ended
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET, dir_fd=home)
    listener = channel.listen(home, SOCKET)
    if os.fork() == 0:
        _become_relay(listener, home)
    return True


def _become_relay(listener: socket.socket, home: int) -> NoReturn:
    """The child: a session of its own, nothing of the worker's kept open (its answer is complete when it is closed)."""
    code = 1
    try:
        os.setsid()
        listener.listen(128)  # again: who connects sees this process's credentials, not the worker's
        os.chdir("/")
        calls.prctl(abi.PR_SET_NAME, b"dockyard-relay")
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        process.close_others(0, 1, 2, listener.fileno(), home)
        Relay(listener, home).run()
        code = 0
    finally:
        os._exit(code)


class Relay:
    """The loop: one epoll, a callback for each descriptor."""

    def __init__(self, listener: socket.socket, home: int) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._listener = listener
        self._home = home
        self._publishers: dict[int, tuple[socket.socket, list[_TcpPort | _UdpPort]]] = {}
        self.streams: set[_Stream] = set()
        self._quiet_since = self._expired = time.monotonic()
        listener.setblocking(False)
        self.watch(listener.fileno(), select.EPOLLIN, self._accept)

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
        """Until nobody has been here for a while."""
        while True:
            for fd, events in self._epoll.poll(_ROUND if self._publishers or self.streams else _PATIENCE):
                callback = self._callbacks.get(fd)
                if callback is not None:
                    callback(events)
            now = time.monotonic()
            self._expire(now)
            if self._publishers or self.streams:
                self._quiet_since = now
            elif now - self._quiet_since > _PATIENCE and self._is_ours():
                os.unlink(SOCKET, dir_fd=self._home)
                return

    def _expire(self, now: float) -> None:
        if now - self._expired < _ROUND:
            return
        self._expired = now
        for _, ports in self._publishers.values():
            for port in ports:
                port.expire(now)

    def _is_ours(self) -> bool:
        """Whether nobody is just connecting."""
        return not select.select([self._listener], [], [], 0)[0]

    def _accept(self, _events: int) -> None:
        publisher = channel.accept(self._listener)
        if publisher is None:
            return
        publisher.setblocking(False)
        self._publishers[publisher.fileno()] = (publisher, [])
        self.watch(publisher.fileno(), select.EPOLLIN, lambda _events: self._hear(publisher))

    def _hear(self, publisher: socket.socket) -> None:
        _, ports = self._publishers[publisher.fileno()]
        try:
            received = channel.receive(publisher)
            if received is not None:
                message, fds = received
                for wanted, fd in zip(message["ports"], fds, strict=True):
                    ports.append(_port(self, wanted, socket.socket(fileno=fd)))
                channel.send(publisher, {})
                return
        except BlockingIOError:
            return
        except (OSError, ValueError, KeyError):
            pass  # not one of ours
        del self._publishers[publisher.fileno()]
        self.unwatch(publisher.fileno())
        publisher.close()
        for port in ports:
            port.close()


def _port(relay: Relay, wanted: dict[str, Any], listener: socket.socket) -> _TcpPort | _UdpPort:
    target = (str(wanted["ip"]), int(wanted["port"]))
    return (_UdpPort if wanted["proto"] == "udp" else _TcpPort)(relay, listener, target)


class _TcpPort:
    """A listening socket and the container's address behind it."""

    def __init__(self, relay: Relay, listener: socket.socket, target: tuple[str, int]) -> None:
        self._relay, self._listener, self._target = relay, listener, target
        listener.setblocking(False)
        relay.watch(listener.fileno(), select.EPOLLIN, self._accept)

    def expire(self, now: float) -> None:
        """Streams have no time limit."""

    def close(self) -> None:
        """No new connections; those there are live on, as connections through the kernel's translation do."""
        self._relay.unwatch(self._listener.fileno())
        self._listener.close()

    def _accept(self, _events: int) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(0.01)  # all of us wait until something is closed
            return
        client.setblocking(False)
        try:
            server = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:
            client.close()  # it had the last descriptor
            return
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server.connect_ex(self._target) not in (0, errno.EINPROGRESS):
            client.close()
            server.close()
            return
        _Stream(self._relay, client, server)


class _Stream:
    """A client's connection and the one to the container: bytes go both ways, each way ends by itself."""

    def __init__(self, relay: Relay, client: socket.socket, server: socket.socket) -> None:
        self._relay = relay
        self._sides = (client, server)
        self._pending = [b"", b""]  # read from this side, not yet written to the other
        self._ended = [False, False]  # nothing more comes from this side
        relay.streams.add(self)
        relay.watch(server.fileno(), select.EPOLLOUT, self._on_connected)

    def _on_connected(self, _events: int) -> None:
        if self._sides[1].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._close()
            return
        self._rearm()

    def _rearm(self) -> None:
        if all(self._ended) and not any(self._pending):
            self._close()
            return
        for side in (0, 1):
            wanted = 0
            if not self._ended[side] and not self._pending[side]:
                wanted |= select.EPOLLIN
            if self._pending[1 - side]:
                wanted |= select.EPOLLOUT
            fd = self._sides[side].fileno()
            if wanted:
                self._relay.watch(fd, wanted, self._on_client if side == 0 else self._on_server)
            else:
                self._relay.unwatch(fd)

    def _on_client(self, events: int) -> None:
        self._on_events(0, events)

    def _on_server(self, events: int) -> None:
        self._on_events(1, events)

    def _on_events(self, side: int, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self._flush(1 - side)
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not self._pending[side]:
                self._read(side)
        except BlockingIOError:
            pass
        except OSError:
            self._close(reset=True)
            return
        self._rearm()

    def _read(self, side: int) -> None:
        if self._ended[side]:
            return
        data = self._sides[side].recv(_CHUNK)
        if data:
            self._pending[side] = data
            self._flush(side)
        else:
            self._ended[side] = True
            self._sides[1 - side].shutdown(socket.SHUT_WR)

    def _flush(self, side: int) -> None:
        """Write what came from `side` to the other."""
        if self._pending[side]:
            sent = self._sides[1 - side].send(self._pending[side])
            self._pending[side] = self._pending[side][sent:]

    def _close(self, reset: bool = False) -> None:
        self._relay.streams.discard(self)
        for one in self._sides:
            self._relay.unwatch(one.fileno())
            if reset:
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()


class _UdpClient:
    """One client of a UDP port, and the socket that speaks to the container for it."""

    __slots__ = ("address", "local", "upstream", "used")

    def __init__(self, address: Any, local: bytes, upstream: socket.socket, used: float) -> None:
        self.address, self.local, self.upstream, self.used = address, local, upstream, used


class _UdpPort:
    """A bound socket, the container's address behind it, and its clients."""

    def __init__(self, relay: Relay, listener: socket.socket, target: tuple[str, int]) -> None:
        self._relay, self._listener, self._target = relay, listener, target
        self._clients: dict[Any, _UdpClient] = {}
        listener.setblocking(False)
        listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)  # answers come from the address that was asked
        relay.watch(listener.fileno(), select.EPOLLIN, self._from_client)

    def expire(self, now: float) -> None:
        for client in [c for c in self._clients.values() if now - c.used > _UDP_IDLE]:
            self._forget(client)

    def close(self) -> None:
        for client in list(self._clients.values()):
            self._forget(client)
        self._relay.unwatch(self._listener.fileno())
        self._listener.close()

    def _forget(self, client: _UdpClient) -> None:
        self._clients.pop(client.address, None)
        self._relay.unwatch(client.upstream.fileno())
        client.upstream.close()

    def _from_client(self, _events: int) -> None:
        try:
            data, ancillary, _, address = self._listener.recvmsg(65536, _CONTROL)
            client = self._clients.get(address) or self._meet(address, ancillary)
            client.used = time.monotonic()
            client.upstream.send(data)
        except OSError:
            return  # a datagram may get lost

    def _meet(self, address: Any, ancillary: list[tuple[int, int, bytes]]) -> _UdpClient:
        if len(self._clients) >= _UDP_CLIENTS:
            self._forget(min(self._clients.values(), key=lambda client: client.used))
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        upstream = socket.socket(socket.AF_INET, kind)
        try:
            upstream.connect(self._target)
        except OSError:
            upstream.close()
            raise
        local = next((data for _, kind, data in ancillary if kind == _IPV6_PKTINFO), b"")
        client = _UdpClient(address, local, upstream, time.monotonic())
        self._clients[address] = client
        self._relay.watch(upstream.fileno(), select.EPOLLIN, lambda _events: self._from_container(client))
        return client

    def _from_container(self, client: _UdpClient) -> None:
        try:
            data = client.upstream.recv(65536)
            control = [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, client.local)] if client.local else []
            self._listener.sendmsg([data], control, 0, client.address)
            client.used = time.monotonic()
        except OSError:
            return  # refused by the container, or the client is gone


def connect(directory: str) -> socket.socket:
    """A connection to the relay of `directory`; it lives as long as somebody has one. OSError when there is none."""
    home = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return channel.connect(home, SOCKET)
    finally:
        os.close(home)


def hand_over(directory: str, ports: Sequence[dict[str, Any]], sockets: Sequence[socket.socket]) -> socket.socket:
    """Give bound sockets to the relay of `directory`; they are served as long as the returned connection is open.

    OSError when no relay answers.
    """
    connection = connect(directory)
    try:
        connection.settimeout(5)
        for start in range(0, len(ports), 32):
            part = slice(start, start + 32)
            channel.send(connection, {"ports": list(ports[part])}, [one.fileno() for one in sockets[part]])
            if channel.receive(connection) is None:
                raise OSError(errno.ECONNRESET, "the relay of IPv6 ports refused a port")
    except BaseException:
        connection.close()
        raise
    connection.setblocking(True)
    return connection
