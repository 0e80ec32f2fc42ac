"""Keeps programs alive with supervisord.

Here: starting and ending supervisord, and changing its programs one by one. Not here: what the
files look like (``configuration``), what watches supervisord itself (``keeper``), what runs in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dr_platform.errors import PlatformError
from dr_platform.runtime.local import configuration, leftovers, rpc
from dr_platform.runtime.local.configuration import UnusableProgram
from dr_platform.runtime.local.locks import exclusively
from dr_platform.runtime.local.programs import Program
from dr_platform.runtime.port import RuntimeUnreachable
from dr_platform.state import StateDirectory
from dr_platform.verdict import Progress, silent

_START_S = 20.0
_POLL_S = 0.03
_ALIVE = frozenset({"STARTING", "RUNNING", "BACKOFF", "STOPPING"})
_INHERITED = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "XDG_CACHE_HOME"}
)
"""All that supervised programs get of the caller's environment, besides ``DRP_…`` and ``LC_…``:
a person's shell is full of credentials that are none of their business."""


class LeftRunning(PlatformError):
    """Processes outlived even SIGKILL, or belong to somebody else."""

    def __init__(self, pids: tuple[int, ...]) -> None:
        super().__init__(pids)
        self.what = f"could not end process {', '.join(map(str, pids))}"
        self.untouched = "stored data"
        self.next_step = "end them as their owner (`ps -p PID -o user,args`), then run the command again"


@dataclass(frozen=True)
class ProcessInfo:
    """One supervised process. ``name`` is supervisord's, ``group`` the program's.

    ``state`` is supervisord's word: STARTING, RUNNING, BACKOFF, STOPPING, STOPPED, EXITED, FATAL.
    """

    name: str
    group: str
    number: int
    state: str
    pid: int | None
    started_at: datetime | None
    reason: str
    log: Path


class Supervisor:
    """One environment's supervisord. Safe to use from several processes and threads at once.

    Every method but ``running``, ``start`` and ``stop`` raises ``RuntimeUnreachable`` when
    supervisord does not answer.
    """

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._programs = state.supervisor / "programs"
        self._lock = state.supervisor / "lock"
        self._stopping = state.supervisor / "stopping"
        self._environment = state.supervisor / "environment.json"

    @property
    def socket(self) -> Path:
        return self._state.run / "supervisor.sock"

    def running(self) -> bool:
        try:
            with rpc.supervisord(self.socket, timeout_s=3.0) as server:
                return server.supervisor.getState()["statecode"] == 1
        except (RuntimeUnreachable, xmlrpc.client.Fault):
            return False

    def pid(self) -> int | None:
        """supervisord's process, read from it."""
        try:
            with rpc.supervisord(self.socket, timeout_s=3.0) as server:
                return int(server.supervisor.getPID())
        except (RuntimeUnreachable, xmlrpc.client.Fault):
            return None

    def start(self, environment: Mapping[str, str]) -> None:
        """Start supervisord, and with it every program that was put before; a running one is left
        as it is. ``environment`` goes to every program, so it never holds a secret."""
        with exclusively(self._lock):
            self._stopping.unlink(missing_ok=True)
            if not self.running():
                _write(self._environment, json.dumps(dict(environment)))
                self._launch(environment)

    def heal(self) -> bool:
        """Start supervisord as it was started before, if it is dead and nobody asked for that."""
        with exclusively(self._lock):
            if self._stopping.exists() or self.running() or self._process() is not None:
                return False
            self._launch(self._environment_before())
            return True

    def _launch(self, environment: Mapping[str, str]) -> None:
        if (hung := self._process()) is not None:
            leftovers.kill(hung)
        self._end_leftovers()
        self._programs.mkdir(parents=True, exist_ok=True)
        self._state.make_run()
        self._set_malformed_aside()
        conf = self._state.supervisor / "supervisord.conf"
        _write(conf, configuration.supervisord_text(self._state, _open_files()))
        started = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)],
            env=program_environment(environment, self._state),
            cwd=self._state.root,
            capture_output=True,
            text=True,
            timeout=_START_S,
            check=False,
        )
        if started.returncode != 0:
            reason = _last_line(started.stdout + started.stderr)
            raise RuntimeUnreachable("local", f"supervisord did not start: {reason}")
        if not _eventually(self.running, _START_S):
            raise RuntimeUnreachable("local", f"supervisord did not start, see {self._state.logs / 'supervisord.log'}")

    def own_pid(self) -> int | None:
        """supervisord's pid as it wrote it down; the process may be gone."""
        try:
            return int((self._state.run / "supervisord.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def _process(self) -> leftovers.KnownProcess | None:
        """supervisord's process if there is one, whether it answers or not."""
        pid, conf = self.own_pid(), self._state.supervisor / "supervisord.conf"
        return leftovers.identify(pid) if pid and leftovers.has_argument(pid, str(conf)) else None

    def _environment_before(self) -> dict[str, str]:
        try:
            found = json.loads(self._environment.read_text(encoding="utf-8"))
            return {str(key): str(value) for key, value in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def stop(self, progress: Progress = silent) -> None:
        """End every program, those that started last first, then supervisord; afterwards nothing
        of this state root runs. Programs are forgotten, their logs and data stay."""
        with exclusively(self._lock):
            if self._state.supervisor.exists():
                self._stopping.touch()
            supervised = self._supervised()
            if self.running():
                self._stop_all(progress)
            self._shut_down()
            self._end_leftovers(supervised)
            for file in self._programs.glob("*.conf"):
                file.unlink(missing_ok=True)
            leftovers.record_path(self._state).unlink(missing_ok=True)
            for left in (*self._state.run.glob("*.sock"), self._state.run / "supervisord.pid"):
                left.unlink(missing_ok=True)

    def put(self, programs: Iterable[Program]) -> None:
        """Make these programs run as described and leave all others alone.

        Several descriptions with one name are one program whose processes have those numbers.
        Processes whose description did not change are not restarted; ones that had ended are
        started again. Refused with ``UnusableProgram`` before anything changes.
        """
        wanted: dict[str, str] = {}
        for program in programs:
            text = configuration.program_text(program, self._state)
            wanted[program.name] = wanted.get(program.name, "") + text
        for name, text in wanted.items():
            _validate(name, text, self._state)
        outdated = [group for name, text in wanted.items() for group in self._outdated(name, text)]
        self._each(self._stop_group, outdated)
        with exclusively(self._lock), rpc.supervisord(self.socket) as server:
            self._programs.mkdir(parents=True, exist_ok=True)
            for name, text in wanted.items():
                _write(self._file(name), text)
            server.supervisor.reloadConfig()
            for group in outdated:
                _tolerating(lambda g=group: server.supervisor.removeProcessGroup(g), rpc.BAD_NAME)
            groups = [group for text in wanted.values() for group in configuration.sections(text)]
            self._make_run(server, groups)

    def remove(self, names: Iterable[str]) -> None:
        """Stop these programs and forget them; unknown names are no error."""
        names = tuple(names)
        groups = [group for name in names for group in self._groups_of(name)]
        self._each(self._stop_group, groups)
        with exclusively(self._lock), rpc.supervisord(self.socket) as server:
            for name in names:
                self._file(name).unlink(missing_ok=True)
            for group in groups:
                _tolerating(lambda g=group: server.supervisor.removeProcessGroup(g), rpc.BAD_NAME)

    def restart(self, name: str) -> None:
        """Stop and start all processes of the program, or the one process with this name."""
        self.stop_program(name)
        self.start_program(name)

    def stop_program(self, name: str) -> None:
        """Stop without forgetting; it stays stopped until it is started, put, or supervisord starts."""
        self._each(self._stop_group, self._groups_of(name))

    def start_program(self, name: str) -> None:
        with rpc.supervisord(self.socket, timeout_s=60.0) as server:
            for group in self._groups_of(name):
                _tolerating(lambda g=group: server.supervisor.startProcess(g, False), rpc.ALREADY_STARTED)

    def processes(self) -> tuple[ProcessInfo, ...]:
        """Everything supervisord runs or ought to run, by name."""
        with rpc.supervisord(self.socket) as server:
            found = server.supervisor.getAllProcessInfo()
        return tuple(sorted((self._info(entry) for entry in found), key=lambda info: (info.group, info.number)))

    def programs(self) -> tuple[str, ...]:
        """Names of the programs that were put and not removed."""
        return tuple(sorted(file.stem for file in self._programs.glob("*.conf")))

    def _info(self, entry: Mapping[str, object]) -> ProcessInfo:
        name, state = str(entry["name"]), str(entry["statename"])
        group, number = configuration.split_group(name)
        reason = str(entry["spawnerr"])
        if not reason and state == "EXITED":
            reason = f"exit status {entry['exitstatus']}"
        started = float(str(entry["start"]))
        return ProcessInfo(
            name=name,
            group=group,
            number=number,
            state=state,
            pid=int(str(entry["pid"])) or None,
            started_at=datetime.fromtimestamp(started, UTC) if started and state in _ALIVE else None,
            reason=reason if state not in ("RUNNING", "STARTING") else "",
            log=configuration.log_path(self._state, name),
        )

    def _file(self, name: str) -> Path:
        return self._programs / f"{name}.conf"

    def _read(self, name: str) -> dict[str, str]:
        try:
            return configuration.sections(self._file(name).read_text(encoding="utf-8"))
        except (FileNotFoundError, UnicodeDecodeError):
            return {}

    def _outdated(self, name: str, text: str) -> list[str]:
        wanted = configuration.sections(text)
        return [group for group, body in self._read(name).items() if wanted.get(group) != body]

    def _groups_of(self, name: str) -> list[str]:
        """The program's groups; a name with a number is one group. Raises nothing for strangers."""
        if "." in name:
            return [name] if name in self._read(configuration.split_group(name)[0]) else []
        return list(self._read(name))

    def _make_run(self, server: Any, groups: list[str]) -> None:
        known = {str(entry["name"]): str(entry["statename"]) for entry in server.supervisor.getAllProcessInfo()}
        for group in groups:
            if group not in known:
                _tolerating(lambda g=group: server.supervisor.addProcessGroup(g), rpc.ALREADY_ADDED)
            elif known[group] not in _ALIVE:
                _tolerating(lambda g=group: server.supervisor.startProcess(g, False), rpc.ALREADY_STARTED)

    def _stop_group(self, group: str) -> None:
        """Wait until the group's process has ended: by its signal, or by KILL after its time.

        A signal in the first moment after the fork is lost: the child still has supervisord's own
        handlers until it executes its program. A process that young is signalled once more.
        """
        with rpc.supervisord(self.socket) as server:
            info = _known(lambda: server.supervisor.getProcessInfo(group))
            if info is None or info["statename"] not in _ALIVE:
                return
            young = info["now"] - info["start"] < 2
            _tolerating(lambda: server.supervisor.stopProcess(group, False), rpc.NOT_RUNNING, rpc.BAD_NAME)
            began, again = time.monotonic(), young
            while (info := _known(lambda: server.supervisor.getProcessInfo(group))) and info["statename"] in _ALIVE:
                waited = time.monotonic() - began
                if again and waited > 0.3:
                    again = False
                    signal = self._stop_signal(group)
                    _tolerating(lambda s=signal: server.supervisor.signalProcess(group, s), rpc.NOT_RUNNING)
                time.sleep(min(0.2, 0.02 + waited / 10))

    def _each(self, act: Callable[[str], None], groups: list[str]) -> None:
        if not groups:
            return
        with ThreadPoolExecutor(max_workers=min(48, len(groups)), thread_name_prefix="supervise") as pool:
            for outcome in [pool.submit(act, group) for group in groups]:
                outcome.result()

    def _stop_all(self, progress: Progress) -> None:
        """``shutdown`` alone stops one program after the other; here each priority at once."""
        priorities: dict[int, list[str]] = {}
        alive = {info.name for info in self.processes() if info.state in _ALIVE}
        for name in self.programs():
            for group, body in self._read(name).items():
                if group in alive:
                    priorities.setdefault(configuration.priority_of(body), []).append(group)
        for priority in sorted(priorities, reverse=True):
            groups = priorities[priority]
            progress(f"stopping {_list(groups)}")
            with contextlib.suppress(RuntimeUnreachable):  # what is left is ended by pid afterwards
                self._each(self._stop_group, groups)

    def _shut_down(self) -> None:
        process = self._process()
        with contextlib.suppress(RuntimeUnreachable, xmlrpc.client.Fault), rpc.supervisord(self.socket) as server:
            server.supervisor.shutdown()
        if process is not None and not _eventually(lambda: not leftovers.still_runs(process), 15.0):
            leftovers.kill(process)

    def _supervised(self) -> dict[str, leftovers.KnownProcess]:
        """Group name to process, as supervisord says now; nothing when it does not answer."""
        try:
            running = [(info.name, info.pid) for info in self.processes() if info.pid]
        except RuntimeUnreachable:
            return {}
        return {name: known for name, pid in running if (known := leftovers.identify(pid))}

    def _end_leftovers(self, supervised: Mapping[str, leftovers.KnownProcess] | None = None) -> None:
        recorded = {**leftovers.read_record(self._state), **(supervised or {})}
        signals = {known.pid: self._stop_signal(group) for group, known in recorded.items()}
        found = leftovers.find_leftovers(self._state, recorded.values(), self.socket)
        if remaining := leftovers.end(found, signals):
            raise LeftRunning(tuple(process.pid for process in remaining))

    def _stop_signal(self, group: str) -> str:
        return configuration.stop_signal_of(self._read(configuration.split_group(group)[0]).get(group, ""))

    def _set_malformed_aside(self) -> None:
        """A file that supervisord cannot read would keep every other program from starting."""
        for file in self._programs.glob("*.conf"):
            try:
                _validate(file.stem, file.read_text(encoding="utf-8"), self._state)
            except (UnusableProgram, UnicodeDecodeError):
                file.replace(file.with_suffix(".malformed"))


def program_environment(environment: Mapping[str, str], state: StateDirectory) -> dict[str, str]:
    """What supervisord and its programs get: little of the caller's, all of ``environment``."""
    inherited = {k: v for k, v in os.environ.items() if k in _INHERITED or k.startswith(("DRP_", "LC_"))}
    return {**inherited, **environment, leftovers.STATE_MARK: str(state.root), "PYTHONUNBUFFERED": "1"}


def _validate(name: str, text: str, state: StateDirectory) -> None:
    """Let supervisord's own parser read it: one bad file makes it refuse all changes, of everybody."""
    from supervisor.options import ServerOptions, UnhosedConfigParser

    parser = UnhosedConfigParser()
    options = ServerOptions()
    options.here = str(state.supervisor)
    try:
        parser.read_string(text)
        groups = options.process_groups_from_parser(parser)
    except Exception as exc:
        # The parser raises whatever its parts raise; each of them means that supervisord would refuse.
        raise UnusableProgram(name, str(exc).splitlines()[0] if str(exc) else type(exc).__name__) from exc
    if {group.name for group in groups} != set(configuration.sections(text)) or not (groups or text == ""):
        raise UnusableProgram(name, "its file does not say what was meant")


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _tolerating(call: Callable[[], object], *codes: int) -> None:
    try:
        call()
    except xmlrpc.client.Fault as fault:
        if fault.faultCode not in codes:
            raise RuntimeUnreachable("local", f"supervisord: {fault.faultString}") from fault


def _known(call: Callable[[], Any]) -> Mapping[str, Any] | None:
    """The answer about a process, ``None`` where supervisord has none of that name."""
    try:
        return call()
    except xmlrpc.client.Fault as fault:
        if fault.faultCode == rpc.BAD_NAME:
            return None
        raise RuntimeUnreachable("local", f"supervisord: {fault.faultString}") from fault


def _open_files() -> int:
    """Each program costs supervisord a few descriptors; it refuses to start above the hard limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)


def _eventually(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"


def _list(groups: list[str]) -> str:
    names = sorted(groups)
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} programs ({names[0]} … {names[-1]})"
