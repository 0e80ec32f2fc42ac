"""What supervisord reads, as text: its own file and one file per program.

Here: pure rendering and taking apart, with supervisord's quoting rules. Not here: writing files or
talking to supervisord (``supervisor``).
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from dr_platform.errors import ExitCode, PlatformError
from dr_platform.runtime.local.programs import Program
from dr_platform.state import StateDirectory

START_LINE = "=== started, pid "
"""Begins the line that is written into a program's log at each start; it parts its lives."""

LOG_BYTES = 5_000_000
"""A log file is rotated at this size; two older ones are kept."""

_START_SCRIPT = f'printf "\\n{START_LINE}%s ===\\n" $$; exec "$@"'
_NUMBER = "%(process_num)d"
_SAFE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
_SECTION = re.compile(r"^\[program:(?P<group>[^\]]+)\]\n(?P<body>.*?)(?=^\[|\Z)", re.MULTILINE | re.DOTALL)


class UnusableProgram(PlatformError):
    """A program that supervisord's configuration cannot express, or that it refuses."""

    exit_code = ExitCode.REFUSED

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.what = f"program {name} cannot be supervised: {reason}"
        self.untouched = "every program that runs"
        self.next_step = f"correct what defines {name}, then run the command again"


def group_name(program: Program, number: int) -> str:
    """supervisord's name of one process: the program's own where there is only one of it.

    Each replica is a group of its own, because supervisord restarts a whole group when the number
    of its processes changes.
    """
    return program.name if program.first_number == 0 and program.replicas == 1 else f"{program.name}.{number}"


def split_group(group: str) -> tuple[str, int]:
    """Program name and number of a group name."""
    name, _, number = group.partition(".")
    return (name, int(number)) if number.isdigit() else (group, 0)


def log_path(state: StateDirectory, group: str) -> Path:
    return state.logs / f"{group}.log"


def supervisord_text(state: StateDirectory, open_files: int) -> str:
    """``supervisord.conf``. The socket file is the only way in and belongs to its owner alone."""
    user = "user=root\n" if os.geteuid() == 0 else ""
    return (
        "[unix_http_server]\n"
        f"file={_escaped(str(state.run / 'supervisor.sock'))}\n"
        "chmod=0700\n\n"
        "[supervisord]\n"
        f"logfile={_escaped(str(state.logs / 'supervisord.log'))}\n"
        "logfile_maxbytes=5MB\nlogfile_backups=2\nloglevel=info\n"
        f"pidfile={_escaped(str(state.run / 'supervisord.pid'))}\n"
        f"directory={_escaped(str(state.root))}\n"
        f"minfds={open_files}\nminprocs=1\nnocleanup=true\n{user}\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\n"
        # Relative to this file: a list of absolute patterns would break at a space in the path.
        "[include]\nfiles = programs/*.conf\n"
    )


def program_text(program: Program, state: StateDirectory) -> str:
    """The program's file: one section for each replica."""
    if not _SAFE_NAME.fullmatch(program.name):
        raise UnusableProgram(program.name, "its name may have lower-case letters, digits and hyphens only")
    if not program.argv or program.replicas < 0:
        raise UnusableProgram(program.name, "it has no command, or fewer than 0 replicas")
    numbers = range(program.first_number, program.first_number + program.replicas)
    return "".join(_section(program, number, state) for number in numbers)


def sections(text: str) -> dict[str, str]:
    """Group name to the section's body, as ``program_text`` wrote it."""
    return {found["group"]: found["body"] for found in _SECTION.finditer(text)}


def priority_of(body: str) -> int:
    found = re.search(r"^priority=(\d+)$", body, re.MULTILINE)
    return int(found[1]) if found else 500


def stop_signal_of(body: str) -> str:
    found = re.search(r"^stopsignal=(\w+)$", body, re.MULTILINE)
    return found[1] if found else "TERM"


def _section(program: Program, number: int, state: StateDirectory) -> str:
    group = group_name(program, number)
    plain, awkward = _split_environment(program.environment)
    argv = ["/bin/sh", "-c", _START_SCRIPT, "drp"]
    if awkward:
        argv += ["env", *(f"{key}={value}" for key, value in awkward.items())]
    argv += [part.replace(_NUMBER, str(number)) for part in program.argv]
    if any("\n" in part or "\r" in part or "\0" in part for part in argv):
        raise UnusableProgram(program.name, "its command or environment holds a line break or NUL")
    log = log_path(state, group)
    lines = {
        "command": _escaped(_quoted(argv)),
        "process_name": "%(program_name)s",
        "directory": _escaped(str(program.directory or state.root)),
        "environment": ",".join(f'{key}="{_escaped(value)}"' for key, value in plain.items()),
        "priority": program.priority,
        "autostart": "true",
        "autorestart": "true",
        "startsecs": math.ceil(program.start_s),
        "startretries": 3,
        "stopsignal": program.stop_signal,
        "stopwaitsecs": max(1, math.ceil(program.stop_s)),
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": _escaped(str(log)),
        "stdout_logfile_maxbytes": LOG_BYTES,
        "stdout_logfile_backups": 2,
    }
    if program.user is not None and os.geteuid() == 0:  # nobody else can change the user
        lines["user"] = program.user
    body = "\n".join(f"{key}={value}" for key, value in lines.items() if value != "")
    return f"[program:{group}]\n{body}\n\n"


def _split_environment(environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What supervisord's ``environment=`` can say, and what ``env`` has to say for it: its parser
    knows no escapes, strips outer quotes and takes `` ;`` and `` #`` for comments."""
    awkward = {k: v for k, v in environment.items() if re.search(r"[\"\n\r\0]|\s[;#]|^['#;]|'$", v)}
    return {k: v for k, v in environment.items() if k not in awkward}, awkward


def _quoted(argv: list[str]) -> str:
    """Shell quoting in which no blank stands before ``;`` or ``#``, which would begin a comment."""
    return re.sub(r"(\s)(?=[;#])", r"\1''", shlex.join(argv))


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
