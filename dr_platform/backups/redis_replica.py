"""A Redis server's snapshot over the replication protocol, as ``redis-cli --rdb`` takes it.

The server forks and sends what it held at that instant; a replica that has its file just leaves. Nothing
on the server's disk is touched by us, and its writers wait for the fork alone.

Here: asking for the file and receiving every byte of it. Not here: what is in the file.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dr_platform.backups.chunks import CHUNK_BYTES
from dr_platform.backups.source import SnapshotFailed, Source
from dr_platform.databases.access import CONNECT_TIMEOUT_S, tls_context

SILENCE_S = 60.0
"""A server that prepares the file sends an empty line every ten seconds."""
_MARK_BYTES = 40


@dataclass(frozen=True)
class Position:
    """Where in the stream of changes the file stands."""

    replication_id: str
    offset: str


def fetch(source: Source, target: Path) -> Position:
    """Write the server's snapshot into the new file ``target``. Raises ``SnapshotFailed`` where not every
    byte came."""
    try:
        with _connect(source) as connection, _reader(connection) as stream:
            position = _ask(source, connection, stream)
            with target.open("xb") as file:
                target.chmod(0o600)
                for chunk in payload(stream):
                    file.write(chunk)
            return position
    except (OSError, EOFError) as exc:
        raise SnapshotFailed(source.name, f"the replication stream broke: {type(exc).__name__}") from exc


def _reader(connection: socket.socket) -> io.BufferedReader:
    return cast("io.BufferedReader", connection.makefile("rb", CHUNK_BYTES))


def _connect(source: Source) -> socket.socket:
    endpoint = source.endpoint
    connection = socket.create_connection((endpoint.host, endpoint.port), CONNECT_TIMEOUT_S)
    connection.settimeout(SILENCE_S)
    if (context := tls_context(endpoint)) is not None:
        return context.wrap_socket(connection, server_hostname=endpoint.host)
    return connection


def _ask(source: Source, connection: socket.socket, stream: io.BufferedReader) -> Position:
    def say(*words: str) -> bytes:
        connection.sendall(command(*words))
        return _line(stream)

    if not say("AUTH", source.login.username, source.login.password).startswith(b"+OK"):
        raise SnapshotFailed(source.name, "the server refused the credentials")
    # Servers that do not know one of these answer with an error and do without.
    say("REPLCONF", "rdb-only", "1")
    say("REPLCONF", "capa", "eof")
    answer = say("PSYNC", "?", "-1").split()
    if len(answer) != 3 or answer[0] != b"+FULLRESYNC":
        code = answer[0].decode("ascii", "replace") if answer else "nothing"
        raise SnapshotFailed(source.name, f"the server answered PSYNC with {code[:40]}")
    return Position(answer[1].decode("ascii"), answer[2].decode("ascii"))


def command(*words: str) -> bytes:
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def _line(stream: io.BufferedReader) -> bytes:
    """The next line that says something. Raises ``EOFError`` where there is none."""
    while line := stream.readline(1024):
        if line.strip():
            return line.rstrip()
    raise EOFError


def payload(stream: io.BufferedReader) -> Iterator[bytes]:
    """The file, in either form: its length first, or a random mark first that also ends it. Raises
    ``EOFError`` where the stream ends before the file does."""
    head = _line(stream)
    if head.startswith(b"$EOF:") and len(head) == len(b"$EOF:") + _MARK_BYTES:
        yield from _until_mark(stream, head.removeprefix(b"$EOF:"))
    elif head.startswith(b"$") and head[1:].isdigit():
        yield from _of_length(stream, int(head[1:]))
    else:
        raise EOFError


def _of_length(stream: io.BufferedReader, left: int) -> Iterator[bytes]:
    while left:
        chunk = stream.read1(min(left, CHUNK_BYTES))
        if not chunk:
            raise EOFError
        left -= len(chunk)
        yield chunk


def _until_mark(stream: io.BufferedReader, mark: bytes) -> Iterator[bytes]:
    """The server waits for an answer after the mark, so the mark is the last that comes."""
    kept = b""
    while not kept.endswith(mark):
        chunk = stream.read1(CHUNK_BYTES)
        if not chunk:
            raise EOFError
        kept += chunk
        ready = kept[:-_MARK_BYTES]
        if ready:
            yield ready
        kept = kept[-_MARK_BYTES:]
