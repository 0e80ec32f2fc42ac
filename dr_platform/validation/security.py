"""Security: who can reach our processes, read our secrets, and get past the services' doors.

Not here: what database servers say about their own protection (``databases``).
"""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dr_platform.clock import Clock
from dr_platform.look import always_answers
from dr_platform.platform import Platform
from dr_platform.reference_service.access import LEEWAY_S, Tokens
from dr_platform.reference_service.client import ServiceClient
from dr_platform.reference_service.compliance import PROTECTED_PATH, PROTECTED_SCOPE
from dr_platform.secrets.port import SecretStore
from dr_platform.validation.answering import must_be_answered
from dr_platform.verdict import Measure, Verdict

WELL_KNOWN = (
    ("admin", "admin"),
    ("admin@example.org", "admin"),
    ("administrator", "password"),
    ("root", "root"),
    ("test@example.org", "test"),
)
"""Accounts and passwords that are tried first everywhere (OWASP WSTG-ATHN-02)."""
OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO


# Listeners


@dataclass(frozen=True)
class Listener:
    """A TCP socket that waits for connections. ``process`` is the supervised program's name."""

    process: str
    address: str
    port: int


@always_answers
def listeners_verdict(platform: Platform) -> Verdict:
    """Every socket of every supervised process, its children included, listens on loopback alone
    (first guide, "Local Development": localhost access only, no external exposure)."""
    running = {p.name: p.pid for p in platform.supervisor.processes() if p.pid}
    found = {name: _listeners(name, pid) for name, pid in running.items()}
    hidden = [name for name, listeners in found.items() if listeners is None]
    return judge_listeners(len(running), [one for listeners in found.values() for one in listeners or ()], hidden)


def _listeners(name: str, pid: int) -> list[Listener] | None:
    """``None`` where this user may not look."""
    import psutil

    try:
        process = psutil.Process(pid)
        sockets = [one for p in (process, *process.children(recursive=True)) for one in p.net_connections(kind="tcp")]
    except psutil.NoSuchProcess:
        return []  # ended meanwhile, and with it its sockets
    except psutil.AccessDenied:
        return None
    return [Listener(name, one.laddr.ip, one.laddr.port) for one in sockets if one.status == psutil.CONN_LISTEN]


def judge_listeners(processes: int, listeners: Iterable[Listener], hidden: Iterable[str]) -> Verdict:
    """``hidden`` are processes that could not be looked into."""
    found, blind = tuple(listeners), sorted(hidden)
    exposed = sorted({f"{one.process} on {one.address}:{one.port}" for one in found if not _is_loopback(one.address)})
    measurements: dict[str, Measure] = {
        "processes": processes,
        "listeners": len(found),
        "exposed": len(exposed),
        "unmeasured": len(blind),
    }
    if exposed:
        return Verdict(False, f"reachable from other machines: {', '.join(exposed)}", measurements)
    if blind:
        return Verdict(None, f"could not look into {', '.join(blind)}", measurements)
    if not found:
        return Verdict(None, "no process listens, so nothing is known", measurements)
    return Verdict(True, f"{len(found)} listeners of {processes} processes, all on loopback", measurements)


def _is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


# Secrets


@always_answers
def secret_files_verdict(platform: Platform) -> Verdict:
    """The files of the embedded secret store are for their owner alone (45 CFR 164.312(a)(1))."""
    if platform.binding.secrets != "embedded":
        return Verdict(True, "secrets are kept in Vault; no file of ours holds one", {"files": 0})
    return judge_files(platform.state.secrets, os.getuid())


def judge_files(folder: Path, owner: int) -> Verdict:
    paths = [folder, *sorted(folder.rglob("*"))]
    problems = list(_open_paths(folder, paths, owner))
    measurements: dict[str, Measure] = {"files": len(paths) - 1, "open": len(problems)}
    if len(paths) == 1:
        return Verdict(None, "there is no secret yet, so nothing is known", measurements)
    if problems:
        return Verdict(False, "; ".join(problems[:5]), measurements)
    return Verdict(True, f"{len(paths) - 1} files and folders are for their owner alone", measurements)


def _open_paths(folder: Path, paths: Iterable[Path], owner: int) -> Iterator[str]:
    for path in paths:
        try:
            found = path.lstat()
        except FileNotFoundError:  # replaced by a newer version meanwhile
            continue
        name = path.relative_to(folder.parent)
        if stat.S_IMODE(found.st_mode) & OPEN_TO_OTHERS:
            yield f"{name} is open to others (mode {stat.S_IMODE(found.st_mode):o})"
        elif found.st_uid != owner:
            yield f"{name} belongs to another user"


# Doors


@must_be_answered
def access_verdict(client: ServiceClient, secrets: SecretStore, name: str, clock: Clock) -> Verdict:
    """The service refuses whoever has no token, or a wrong one, and admits a good one."""
    seen = {
        what: (client.ask(name, "GET", PROTECTED_PATH, token).status, wanted)
        for what, (token, wanted) in _tokens(client, secrets, clock).items()
    }
    return judge_access(seen)


def _tokens(client: ServiceClient, secrets: SecretStore, clock: Clock) -> Mapping[str, tuple[str | None, int]]:
    """A token of each kind, and the status that it should be answered with."""
    scopes = (PROTECTED_SCOPE,)
    good = client.tokens.issue(client.subject, scopes)
    head, _, signature = good.rpartition(".")
    return {
        "no token": (None, 401),
        "a forged token": (f"{head}.{signature[::-1]}", 401),
        "an expired token": (client.tokens.issue(client.subject, scopes, life_s=-2 * LEEWAY_S), 401),
        "a token of another environment": (Tokens(secrets, "drp-elsewhere", clock).issue(client.subject, scopes), 401),
        "a token without the scope": (client.tokens.issue(client.subject, ("nothing:at-all",)), 403),
        "a good token": (good, 200),
    }


def judge_access(seen: Mapping[str, tuple[int, int]]) -> Verdict:
    """``seen`` is, by kind of token, the status that came and the one that was wanted."""
    wrong = [f"{what} is answered {status}" for what, (status, wanted) in seen.items() if status != wanted]
    measurements: dict[str, Measure] = {"requests": len(seen), "wrong": len(wrong)}
    if wrong:
        return Verdict(False, "; ".join(wrong), measurements)
    return Verdict(True, f"{len(seen) - 1} wrong tokens are refused, a good one is admitted", measurements)


@must_be_answered
def default_credentials_verdict(client: ServiceClient, name: str) -> Verdict:
    """No account and password that everybody knows is admitted (45 CFR 164.312(d))."""
    statuses = [
        client.ask(name, "POST", "/v1/login", None, {"account": account, "password": password}).status
        for account, password in WELL_KNOWN
    ]
    admitted, refused = statuses.count(200), statuses.count(401)
    measurements: dict[str, Measure] = {"tried": len(statuses), "refused": refused, "admitted": admitted}
    if admitted:
        return Verdict(False, f"{admitted} of {len(statuses)} well-known logins are admitted", measurements)
    if refused < len(statuses):
        return Verdict(None, "not every login was judged: too many attempts, or the service is not well", measurements)
    return Verdict(True, f"{len(statuses)} well-known logins are refused", measurements)
