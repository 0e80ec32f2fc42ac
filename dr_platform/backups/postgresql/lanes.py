"""One stream read by several processes at once: its blocks go to whoever is free, and come back in their order.

Here: handing out blocks over a socket of this machine, and putting them together again. Not here: what is in them.

A server sends a base backup as one stream, and compressing it takes longer than reading it. So it is dealt in blocks
to several lanes, each a piece of the backup that a process of its own compresses. A frame is the block's number and
length in 8 bytes each; a lane ends with a frame of length 0 whose number is how many blocks there are in all lanes
together. A frame with the highest number is for the reader alone: the reason why nothing more comes.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from dr_platform.backups.postgresql.errors import ToolFailed

BLOCK_BYTES = 1 << 20
FRAME = struct.Struct("!QQ")
_FAILED = (1 << 64) - 1
_RECEIVE_BYTES = 1 << 20
_ACCEPT_S = 0.5
_LANE = "lane"


class Dealer:
    """Reads ``blocks`` in a thread of its own, as soon as the first lane wants one, and no further ahead than
    two blocks. ``last`` is what is given to those who ask for it after the stream has ended."""

    def __init__(self, path: Path, blocks: Callable[[], Iterator[bytes]], last: Callable[[], bytes]) -> None:
        self._blocks = blocks
        self._last = last
        self._waiting: queue.Queue[tuple[int, bytes] | None] = queue.Queue(2)
        self._ended = threading.Event()
        self._stopped = threading.Event()
        self._begun = threading.Lock()
        self._count = 0
        self.failure: BaseException | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._listener.settimeout(_ACCEPT_S)
        self._taken: set[str] = set()
        self._start(self._accept)

    def close(self) -> None:
        self._stopped.set()
        self._listener.close()

    def _start(self, act: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=act, args=arguments, name="base-backup", daemon=True).start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            connection.settimeout(None)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        # A reader that went away has told its own story.
        with connection, contextlib.suppress(OSError):
            wish = connection.recv(64).decode()
            if not wish.startswith(_LANE):
                self._give_last(connection)
            elif self._first_time(wish):
                self._deal(connection)

    def _first_time(self, lane: str) -> bool:
        """A base backup cannot be read twice: the server would send another one."""
        with self._begun:
            if lane in self._taken:
                return False
            if not self._taken:
                self._start(self._read)
            self._taken.add(lane)
            return True

    def _read(self) -> None:
        try:
            for number, block in enumerate(self._blocks()):
                self._put((number, block))
                self._count = number + 1
                if self._stopped.is_set():
                    return
        except BaseException as exc:  # noqa: BLE001 - told to whoever reads, and raised by the snapshot
            self.failure = exc
        self._ended.set()
        self._put(None)

    def _put(self, what: tuple[int, bytes] | None) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._waiting.put(what, timeout=_ACCEPT_S)
                return

    def _deal(self, connection: socket.socket) -> None:
        while not self._stopped.is_set():
            try:
                found = self._waiting.get(timeout=_ACCEPT_S)
            except queue.Empty:
                continue
            if found is None:
                self._put(None)  # the other lanes end as well
                connection.sendall(FRAME.pack(self._count, 0) if self.failure is None else self._reason())
                return
            number, block = found
            connection.sendall(FRAME.pack(number, len(block)))
            connection.sendall(block)

    def _give_last(self, connection: socket.socket) -> None:
        while not self._ended.wait(_ACCEPT_S):
            if self._stopped.is_set():
                return
        if self.failure is not None:
            connection.sendall(self._reason())
            return
        content = self._last()
        connection.sendall(FRAME.pack(0, len(content)))
        connection.sendall(content)

    def _reason(self) -> bytes:
        failure = self.failure
        # The text of an error that we do not know may quote anything.
        text = failure.reason if isinstance(failure, ToolFailed) else f"{type(failure).__name__}"
        return FRAME.pack(_FAILED, len(text.encode())) + text.encode()


def read_lane(path: Path, number: int) -> Iterator[bytes]:
    """The frames of one lane, as bytes to be stored. Raises ``ToolFailed`` where the stream broke off."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(f"{_LANE}{number}".encode())
        while True:
            header = _exactly(connection, FRAME.size)
            _, size = _known(connection, header)
            yield header
            if not size:
                return
            yield from _received(connection, size)


def read_last(path: Path) -> Iterator[bytes]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"last")
        _, size = _known(connection, _exactly(connection, FRAME.size))
        yield from _received(connection, size)


def _known(connection: socket.socket, header: bytes) -> tuple[int, int]:
    number, size = FRAME.unpack(header)
    if number == _FAILED:
        raise ToolFailed("BASE_BACKUP", _exactly(connection, size).decode())
    return number, size


def _received(connection: socket.socket, size: int) -> Iterator[bytes]:
    while size:
        chunk = _exactly(connection, min(size, _RECEIVE_BYTES))
        size -= len(chunk)
        yield chunk


def _exactly(connection: socket.socket, size: int) -> bytes:
    held: list[bytes] = []
    while size:
        got = connection.recv(size, socket.MSG_WAITALL)
        if not got:
            raise ToolFailed("BASE_BACKUP", "its stream broke off")
        held.append(got)
        size -= len(got)
    return b"".join(held)


def in_blocks(parts: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= BLOCK_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


class BrokenLanes(Exception):
    """Blocks are missing, doubled or out of order."""


def merged(lanes: Sequence[Iterator[bytes]]) -> Iterator[memoryview]:
    """The stream as it was, cut anywhere. Raises ``BrokenLanes`` unless every block is there once."""
    expected, total = 0, None
    frames = [_Frames(lane) for lane in lanes]
    while True:
        for lane in frames:
            head = lane.head()
            if isinstance(head, int):
                if total not in (None, head):
                    raise BrokenLanes("the lanes do not belong together")
                total = head
        lane = next((lane for lane in frames if lane.number == expected), None)
        if lane is None:
            break
        yield from lane.take()
        expected += 1
    if total != expected or not all(lane.ended for lane in frames):
        raise BrokenLanes(f"block {expected} is missing")


class _Frames:
    """The frames of one lane; of the next one the number is known."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.number: int | None = None
        self._size = 0
        self.ended = False
        self._total = 0

    def head(self) -> int | None:
        """Read the next header if it is not read yet; at the lane's end, how many blocks there are in all."""
        if self.ended:
            return self._total
        if self.number is None:
            number, self._size = FRAME.unpack(b"".join(self._read(FRAME.size)))
            if not self._size:
                self.ended, self._total = True, number
                return number
            self.number = number
        return None

    def take(self) -> Iterator[memoryview]:
        yield from self._read(self._size)
        self.number = None

    def _read(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._rest:
                self._rest = self._next()
            taken = self._rest[:size]
            self._rest = self._rest[len(taken) :]
            size -= len(taken)
            yield taken

    def _next(self) -> memoryview:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise BrokenLanes("a lane ends early")
        return memoryview(chunk)
