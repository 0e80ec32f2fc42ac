"""Taking a backup: a snapshot's pieces are read, sealed and stored side by side, and the manifest comes last.

Here: the order of things, several processes, and what is left behind by a failure. Not here: how an engine
reads, the format of a part (``stream``), or whether a backup is worth anything (``proof``).

A backup is there when its manifest is there. Until then nothing refers to its parts; a failed attempt takes
them away again where it may, and leaves a signed note of its failure.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.synchronize import Event

from dr_platform.backups import bucket as layout
from dr_platform.backups import stream
from dr_platform.backups.bucket import Bucket
from dr_platform.backups.errors import BackupFailed, Cause, PieceFailed
from dr_platform.backups.keys import KeyRing
from dr_platform.backups.manifest import Failure, Manifest, Parent, Part, PieceEntry, digest, written
from dr_platform.backups.port import BackupEngine, Facts, Kind, Piece, StoredBackup
from dr_platform.clock import Clock
from dr_platform.errors import PlatformError
from dr_platform.identity import new_id
from dr_platform.objects import ObjectsFull, ObjectsUnavailable
from dr_platform.verdict import Progress, silent

WORKERS = 2
"""Processes that read and seal. Compression is what takes the time, and it keeps one core busy for each."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Order:
    """What was asked for, and by whom."""

    environment: str
    database: str
    kind: Kind
    reason: str
    actor: str


@dataclass(frozen=True)
class _Task:
    """One piece, with all that another process needs to store it."""

    piece: Piece
    bucket: Bucket
    backup_id: str
    folder: str
    part_bytes: int
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class BackupWriter:
    """Takes backups into one bucket. ``workers`` of 0 reads in this process, for small databases and tests."""

    bucket: Bucket
    keys: KeyRing
    clock: Clock
    workers: int = WORKERS
    part_bytes: int = stream.PART_BYTES
    progress: Progress = silent
    identify: Callable[[str], str] = new_id

    def take(self, order: Order, engine: BackupEngine, parent: StoredBackup | None = None) -> Manifest:
        """A complete backup, not proved yet. Raises ``BackupFailed``; the backups before it stay as they are.

        A platform error of the engine, such as a program that is missing, keeps its text in the reason.
        """
        started = self.clock.now()
        backup_id = self._new_id(order.database, started)
        key, wrapped = self.keys.new(backup_id)
        try:
            continued = self._parent(order.database, parent)
            entries, facts = self._read(order, engine, parent, backup_id, key)
            manifest = Manifest(
                backup_id=backup_id,
                environment=order.environment,
                database=order.database,
                kind=order.kind,
                parent=continued,
                started_at=started,
                finished_at=self.clock.now(),
                reason=order.reason,
                actor=order.actor,
                data_key=wrapped,
                facts=facts,
                pieces=tuple(sorted(entries, key=lambda entry: entry.name)),
                size_bytes=sum(part.bytes for entry in entries for part in entry.parts),
                raw_bytes=sum(entry.raw_bytes for entry in entries),
            )
            self.bucket.objects.put(layout.manifest_key(order.database, backup_id), written(manifest, self.keys))
        except Exception as exc:  # noqa: BLE001 - whatever it was, the parts go and the failure is told
            cause, detail = _reason_of(exc)
            self._give_up(order, backup_id, started, cause, detail)
            raise BackupFailed(backup_id, cause, detail) from None  # the text of an unexpected one may quote data
        return manifest

    def _new_id(self, database: str, started: datetime) -> str:
        """Names sort as the clock ran, which helps people; nothing depends on it."""
        return self.identify(f"{database}-{started:%Y%m%dT%H%M%SZ}")

    def _parent(self, database: str, parent: StoredBackup | None) -> Parent | None:
        if parent is None:
            return None
        content = self.bucket.objects.get(layout.manifest_key(database, parent.id))
        return Parent(id=parent.id, manifest_sha256=digest(content))

    def _read(
        self, order: Order, engine: BackupEngine, parent: StoredBackup | None, backup_id: str, key: bytes
    ) -> tuple[list[PieceEntry], Facts]:
        folder = layout.folder_of(order.database, backup_id)
        with closing(_Readers(self.workers, engine)) as readers, engine.snapshot(order.kind, parent) as snapshot:
            pieces = sorted(snapshot.pieces(), key=lambda piece: (-piece.size_hint, piece.name))
            if not pieces:
                raise PieceFailed("the snapshot", Cause.NOTHING_READ, "it has no piece")
            tasks = [_Task(p, self.bucket, backup_id, folder, self.part_bytes, key) for p in pieces]
            entries: list[PieceEntry] = []
            with closing(readers):  # no worker writes any more when parts are taken away
                for entry in readers.stored(tasks):
                    entries.append(entry)
                    self._tell(entries, len(tasks))
            return entries, snapshot.facts()

    def _tell(self, entries: Sequence[PieceEntry], of: int) -> None:
        read = sum(entry.raw_bytes for entry in entries)
        kept = sum(part.bytes for entry in entries for part in entry.parts)
        self.progress(f"{len(entries)} of {of} pieces: {read / 1e6:,.1f} MB read, {kept / 1e6:,.1f} MB stored")

    def _give_up(self, order: Order, backup_id: str, started: datetime, cause: Cause, detail: str) -> None:
        """A full store gets its room back first. What cannot be removed is swept later."""
        objects = self.bucket.objects
        with suppress(PlatformError):
            for info in list(objects.list(layout.folder_of(order.database, backup_id))):
                objects.delete(info.key)
        failure = Failure(
            backup_id=backup_id,
            environment=order.environment,
            database=order.database,
            kind=order.kind,
            started_at=started,
            finished_at=self.clock.now(),
            reason=order.reason,
            actor=order.actor,
            cause=cause,
            detail=detail,
        )
        with suppress(PlatformError):
            objects.put(layout.failure_key(order.database, backup_id), written(failure, self.keys))


class _Readers:
    """Processes that read and seal pieces; none where ``workers`` is 0. They start while the snapshot is opened."""

    def __init__(self, workers: int, engine: BackupEngine) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if not workers:
            return
        # A process forked from this one would share its connections. One that is forked from a server which has
        # nothing but these modules has no import to wait for.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", __name__, type(engine).__module__])
        self._stop = context.Event()
        self._pool = ProcessPoolExecutor(workers, context, _begin_worker, (self._stop,))
        self._start = threading.Thread(target=self._pool.submit, args=(_begun,), name="readers")
        self._start.start()

    def stored(self, tasks: Sequence[_Task]) -> Iterator[PieceEntry]:
        """Entries as they are finished. The first failure is raised."""
        if self._pool is None:
            yield from map(_store, tasks)
            return
        for future in as_completed([self._pool.submit(_store, task) for task in tasks]):
            yield future.result()

    def close(self) -> None:
        """Returns when none of them writes any more."""
        if self._pool is not None:
            self._start.join()
            self._stop.set()
            self._pool.shutdown(wait=True, cancel_futures=True)


def _reason_of(exc: Exception) -> tuple[Cause, str]:
    match exc:
        case PieceFailed():
            return exc.cause, f"{exc.piece}: {exc.detail}"
        case ObjectsFull():
            return Cause.STORE_FULL, exc.what
        case ObjectsUnavailable():
            return Cause.STORE_UNAVAILABLE, exc.what
        case PlatformError():
            return Cause.TOOL_FAILED, exc.what
        case BrokenProcessPool():
            return Cause.WORKER_ENDED, "a process that reads pieces was killed"
        case OSError() if exc.errno in _FULL:
            return Cause.MACHINE_FULL, os.strerror(exc.errno or 0)
    return Cause.DEFECT, f"unexpected {type(exc).__name__}"


# In a process of its own


_stop: Event | None = None


class _Stopped(Exception):
    """Another piece has failed."""


def _begin_worker(stop: Event) -> None:
    global _stop  # noqa: PLW0603 - a process that reads pieces has one pool
    _stop = stop
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.join,), daemon=True).start()


def _begun() -> None:
    """The first thing that is asked of a pool starts all its processes."""


def _end_with(parent_ended: Callable[[], None]) -> None:
    """A worker whose parent was killed would wait for its next piece for ever."""
    parent_ended()
    os._exit(1)


def _store(task: _Task) -> PieceEntry:
    """Read, seal and put one piece. Every failure leaves as a ``PieceFailed`` that says which kind it is."""
    name = task.piece.name
    try:
        parts = tuple(_stored_parts(task))
        facts = dict(task.piece.facts)
    except Exception as exc:  # noqa: BLE001 - errors of drivers often cannot be pickled, and quote data
        raise PieceFailed(name, *_piece_reason(exc)) from None
    raw_bytes = sum(part.raw_bytes for part in parts)
    if not raw_bytes:
        raise PieceFailed(name, Cause.NOTHING_READ, "it gave no byte")
    return PieceEntry(name=name, facts=facts, raw_bytes=raw_bytes, parts=parts)


def _piece_reason(exc: Exception) -> tuple[Cause, str]:
    cause, detail = _reason_of(exc)
    # A driver's own error means that its connection or its server did not give everything.
    return (Cause.TOOL_FAILED, type(exc).__name__) if cause is Cause.DEFECT else (cause, detail)


def _stored_parts(task: _Task) -> Iterator[Part]:
    def bound(index: int) -> bytes:
        return stream.associated(task.backup_id, layout.part_path(task.piece.name, index))

    for part in stream.sealed_parts(_read(task.piece), task.key, bound, part_bytes=task.part_bytes):
        path = layout.part_path(task.piece.name, part.index)
        task.bucket.objects.put(f"{task.folder}/{path}", part.content)
        yield Part(path=path, bytes=len(part.content), raw_bytes=part.raw_bytes, sha256=part.sha256)


def _read(piece: Piece) -> Iterator[bytes]:
    for chunk in piece.read():
        if _stop is not None and _stop.is_set():
            raise _Stopped
        yield chunk
