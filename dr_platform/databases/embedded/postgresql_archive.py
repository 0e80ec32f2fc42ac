"""How a PostgreSQL server hands its write-ahead log over, segment by segment.

Here: the folder's contents as the server leaves them, and the command it is told to run. Not here: who empties it.
"""

from __future__ import annotations

import shlex
from pathlib import Path

ARCHIVE_TIMEOUT_S = 60
"""What was committed longer ago than this, and what it takes to drain, is out of the server's hands."""


def archive_settings(spool: Path) -> dict[str, str]:
    """Settings of a server that hands its log to ``spool``, a folder of its own user. A segment appears there whole and
    written to the disk, or not at all; what fails is tried again by the server."""
    place = shlex.quote(str(spool).replace("%", "%%"))
    # A file that is there already is compared: after a crash the server hands over again what it had handed over.
    # The unused end of a segment is zeros, which take no place in a sparse file.
    copy = 'dd if="%p" of="$s.new" bs=1048576 conv=sparse,fsync 2>/dev/null || { cp "%p" "$s.new" && sync; }'
    command = f's={place}/%f; cmp -s "%p" "$s" || {{ test ! -e "$s" && {{ {copy}; }} && mv "$s.new" "$s"; }}'
    return {"archive_mode": "on", "archive_command": command, "archive_timeout": f"{ARCHIVE_TIMEOUT_S}s"}
