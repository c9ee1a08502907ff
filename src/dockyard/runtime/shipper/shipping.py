"""One container's log on its way to its receiver.

Owns: following the spool, when a place counts as sent, trying again, the end. Does not own: what lies on disk
(`spool`), connections (`sinks`), which containers there are (`process`).

Nothing is skipped but what the spool's limit has taken away before it could be sent; after an error, what may not have
arrived is sent again. So a line arrives at least once, in order.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from msgspec import Struct

from dockyard.model.errors import DockyardError
from dockyard.proto.logformats import Entry, Source
from dockyard.proto.times import parse_moment
from dockyard.runtime.shipper import sinks
from dockyard.runtime.shipper.sinks import Sink
from dockyard.runtime.shipper.spool import Spool
from dockyard.store.journal.follow import Watch, Watcher
from dockyard.store.journal.tape import Place, Tape

_CHUNK: Final = 128 * 1024  # bytes of records in a batch
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds between tries
_IDLE: Final = 60.0  # seconds without output after which the connection is given up
_LOOK: Final = 0.5  # seconds between looks for a log that is not there yet
_PIECE: Final = 16 * 1024  # `writer.PIECE`: a record of so many bytes without a newline is a piece of a line

Connect = Callable[[Source], Awaitable[Sink]]


class _Record(Struct, gc=False):
    log: str = ""
    stream: str = "stdout"
    time: str = ""


class Shipment:
    """One container's. `run` until it is cancelled, or the container is gone and all is sent."""

    def __init__(
        self, spool: Spool, watcher: Watcher, tell: Callable[[str], None], connect: Connect = sinks.connect
    ) -> None:
        """`tell`: where troubles are told, once each."""
        self._spool, self._watcher, self._tell, self._connect = spool, watcher, tell, connect
        self._tape = Tape(spool.log_path, _CHUNK)
        self._decode = _Decoder()
        self._sent: deque[tuple[float, Place]] = deque()  # not believed to have been read yet
        self._sure: Place | None = None
        self._wake = asyncio.Event()
        self._removed = False
        self._troubled = ""

    def look(self) -> None:
        """Something about the container has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Send what there is and what comes."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._open()
                await self._pump()
                return
            except (OSError, TimeoutError, ssl.SSLError, DockyardError) as error:
                text = getattr(error, "strerror", None) or str(error) or type(error).__name__
                self._trouble(f"its log cannot be sent, trying on: {text}")
                pause = _FIRST_PAUSE if self._sent else min(pause * 2, _LONGEST_PAUSE)
            finally:
                self._tape.close()
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
            except TimeoutError:
                pass

    def _trouble(self, text: str) -> None:
        if text != self._troubled:
            self._troubled = text
            self._tell(f"container {self._spool.id}: {text}")

    async def _open(self) -> None:
        """To where nobody knows that it has arrived."""
        self._sent.clear()
        place = self._sure = self._sure or self._spool.read_place()
        await asyncio.to_thread(self._tape.open)
        if place is not None and self._tape.exists and not self._tape.go_back_to(place):
            self._tell(f"container {self._spool.id}: output was rotated away before it could be sent")
            self._sure = None

    async def _pump(self) -> None:
        """Until the container is gone and everything is sent. Whatever `sinks.Sink` raises."""
        sink: Sink | None = None
        quiet_since = time.monotonic()
        try:
            while True:
                records = await asyncio.to_thread(self._tape.read)
                if records:
                    sink = sink or await self._connected()
                    await self._send(sink, records)
                    quiet_since = time.monotonic()
                    continue
                if await asyncio.to_thread(self._tape.advance):
                    continue
                if sink is not None and sink.broken() and self._sent:
                    raise ConnectionResetError(104, "the receiver has ended the connection")
                now = time.monotonic()
                self._settle(now)
                if self._removed and not self._sent:
                    return
                if sink is not None and not self._sent and (sink.broken() or now - quiet_since > _IDLE):
                    await sink.close()
                    sink = None
                await self._wait(sink)
        finally:
            if sink is not None:
                await sink.close()

    async def _connected(self) -> Sink:
        source = self._spool.settings()
        if source is None:
            raise OSError(2, "its settings cannot be read")
        return await self._connect(source)

    async def _send(self, sink: Sink, records: bytes) -> None:
        await sink.send(self._decode.entries(records))
        if self._troubled:
            self._troubled = ""
            self._tell(f"container {self._spool.id}: its log is sent again")
        place = self._tape.place
        assert place is not None
        now = time.monotonic()
        self._sent.append((now + sink.doubt, place))
        self._settle(now)

    def _settle(self, now: float) -> None:
        """What was sent long enough ago, over a connection that is still there, has been read."""
        place = None
        while self._sent and self._sent[0][0] <= now:
            place = self._sent.popleft()[1]
        if place is not None and place != self._sure:
            self._sure = place
            try:
                self._spool.write_place(place)
            except OSError as error:  # a full disk: after a restart something is sent twice
                self._trouble(f"where its log is sent from cannot be kept: {error.strerror}")

    async def _wait(self, sink: Sink | None) -> None:
        """For output, for the container's removal, for what was sent to be old enough, for the connection's end."""
        self._removed = bool(self._spool.removed_at)  # looked at before the log's end: nothing comes behind it
        limit = None
        if self._sent:
            limit = max(0.02, self._sent[0][0] - time.monotonic())
        elif self._removed:
            limit = 0.0  # one more look
        elif not self._tape.exists:
            limit = _LOOK
        elif sink is not None:
            limit = _IDLE if not sink.doubt else 1.0
        watch: Watch | None = self._watcher.watch(self._spool.log_path) if self._tape.exists else None
        try:
            if watch is not None and await asyncio.to_thread(self._tape.advance):
                return  # it came before it was watched
            waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self._wake.wait())]
            if watch is not None:
                waits.append(asyncio.ensure_future(watch.wait()))
            try:
                await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            self._wake.clear()
        finally:
            if watch is not None:
                watch.close()

    @property
    def removed(self) -> bool:
        """After `run`: the container is gone."""
        return self._removed


class _Decoder:
    """Records of the file into entries; lines in pieces are told as such."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_Record)
        self._pieces: dict[str, tuple[str, int]] = {}  # stream -> of the line that it is within: name, pieces so far

    def entries(self, records: bytes) -> list[Entry]:
        try:
            found = self._decoder.decode_lines(records)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            found = [record for line in records.split(b"\n") if (record := self._one(line)) is not None]
        return [self._entry(record) for record in found]

    def _one(self, line: bytes) -> _Record | None:
        try:
            return self._decoder.decode(line) if line else None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None  # damaged by a power loss

    def _entry(self, record: _Record) -> Entry:
        text, stream = record.log, record.stream
        whole = text.endswith("\n")
        stamp = _moment(record.time)
        partial = not whole and len(text.encode()) >= _PIECE // 2
        line, piece = self._pieces.pop(stream, ("", 0))
        if partial or piece:
            line, piece = line or os.urandom(16).hex(), piece + 1
        if partial:
            self._pieces[stream] = (line, piece)
        return Entry(stream == "stderr", text[:-1] if whole else text, stamp, partial, piece, line)


def _moment(text: str) -> int:
    try:
        return parse_moment(text, 0)
    except ValueError:
        return time.time_ns()
