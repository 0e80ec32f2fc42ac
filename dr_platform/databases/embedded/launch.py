"""Starts one server in place of itself: ``python -m dr_platform.databases.embedded.launch … -- PROGRAM …``.

Here: what must happen right before each start, also when a supervisor restarts the server by itself
and nobody has prepared anything: a missing socket folder, a stale process file, privileges to drop,
secrets that a program takes from its environment only. Not here: anything about an engine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

COMMAND = (sys.executable, "-m", "dr_platform.databases.embedded.launch")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launch", allow_abbrev=False)
    parser.add_argument("--user", metavar="UID:GID", help="run as")
    parser.add_argument("--directory", type=Path, action="append", default=[], help="make it, for that user alone")
    parser.add_argument("--pid-file", type=Path, help="removed where its process is not the program")
    parser.add_argument("--secret", action="append", default=[], metavar="VARIABLE=NAME#FIELD")
    parser.add_argument("program", nargs="+")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, then become the program. Never returns."""
    options = _parser().parse_args(arguments)
    uid, gid = map(int, options.user.split(":")) if options.user else (os.geteuid(), os.getegid())
    for folder in options.directory:
        _make_private(folder, uid, gid)
    if options.pid_file is not None:
        forget_stale_process(options.pid_file, options.program[0])
    environment = {**os.environ, **_secret_variables(options.secret)}
    if uid != os.geteuid():
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    os.umask(0o077)
    os.execve(options.program[0], options.program, environment)  # noqa: S606 - an argument list, no shell


def _make_private(folder: Path, uid: int, gid: int) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != uid:
        os.chown(folder, uid, gid)
    folder.chmod(0o700)


def forget_stale_process(pid_file: Path, program: str) -> None:
    """Remove the process file of a server that was killed. Its number may by now belong to another
    program, after which the server would refuse to start for ever."""
    try:
        pid = int(pid_file.read_text(encoding="ascii").split()[0])
    except FileNotFoundError:
        return
    except (ValueError, IndexError):  # cut short by a full disk or a power cut
        pid_file.unlink(missing_ok=True)
        return
    if not _runs(pid, program):
        pid_file.unlink(missing_ok=True)


def _runs(pid: int, program: str) -> bool:
    try:
        found = Path(f"/proc/{pid}/exe").readlink()
    except PermissionError:  # cannot tell: the server's own check decides
        return True
    except OSError:
        return False
    return found.name.removesuffix(" (deleted)") == Path(program).resolve().name


def _secret_variables(wanted: Sequence[str]) -> dict[str, str]:
    if not wanted:
        return {}
    from dr_platform.secrets.embedded import EmbeddedSecretStore

    store = EmbeddedSecretStore(Path(os.environ["DRP_STATE_ROOT"]) / "secrets")
    variables = {}
    for item in wanted:
        variable, _, source = item.partition("=")
        name, _, field = source.partition("#")
        fields = store.read(name)
        if fields is None:
            sys.exit(f"secret {name} does not exist yet; `drp up` makes it")
        variables[variable] = fields[field]
    return variables


if __name__ == "__main__":
    main()
