"""The compliance block of the health response, measured by the service on itself.

- audit: an event reached the audit trail lately, and where it is kept answers now.
- encryption: a canary, encrypted with the PHI key and stored where patient data is stored, is
  ciphertext when read raw, and opens again.
- access controls: the service's own data endpoint refuses a request without a token, with a forged
  one and with one that lacks the scope, and admits a good one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dr_platform.reference_service.cipher import Place
from dr_platform.reference_service.looks import Look, Reason, every
from dr_platform.reference_service.peers import HttpPeer
from dr_platform.reference_service.replica import Replica
from dr_platform.reference_service.topology import Work
from dr_platform.reference_service.trail import Event

PROTECTED_PATH = "/v1/protected"
PROTECTED_SCOPE = "self:check"
_CANARY = "synthetic canary: this sentence must never be readable where it is stored"
_FRESH_S = 300.0
"""An event of traffic this young shows that the audit trail works; else one is written for it."""
_STALE_S = 180.0


class Compliance:
    """The three measurements, repeated every minute while good and every two seconds while not."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._self = HttpPeer(replica.identity.service, replica.identity.port, replica.clock)
        self._looks = {
            "hipaa_audit_enabled": self._look(self._audits, good_s=10.0),
            "encryption_active": self._look(self._encrypts, good_s=60.0),
            "access_controls_active": self._look(self._refuses, good_s=60.0),
        }

    def _look(self, look: Callable[[], None], *, good_s: float) -> Look:
        replica = self._replica
        return Look(look, every(good_s, 2.0), clock=replica.clock, executor=replica.looks, stale_s=_STALE_S)

    def refresh(self) -> None:
        """Start what is due, without waiting."""
        for look in self._looks.values():
            look.latest()

    def block(self, wait_s: float = 1.5) -> dict[str, bool]:
        """The fields as measured, with what was injected in place of it. May wait for the first look."""
        measured = {name: look.settled(wait_s).good is True for name, look in self._looks.items()}
        return {**measured, **self._replica.faults.now().compliance_flags}

    def reasons(self) -> dict[str, str]:
        """Why a field is false, by its name."""
        seen = {name: look.latest() for name, look in self._looks.items()}
        return {name: one.reason for name, one in seen.items() if one.good is not True}

    # Audit

    def _audits(self) -> None:
        replica = self._replica
        if not replica.trail.appended_within(_FRESH_S) or replica.trail.waiting():
            if not replica.trail.waiting():
                replica.trail.record(Event(replica.identity.service, "audit:check", "allowed", replica.identity.place))
            replica.trail.flush()
        keeper = replica.topology.with_work(Work.AUDIT_LOG)
        if keeper is None:
            raise Reason("no service keeps an audit log")
        if keeper.name != replica.identity.service:
            answer = replica.peers.peer(keeper.name).ask("GET", "/health/ready", timeout_s=1.0)
            if answer.status != 200:
                raise Reason("the audit log is not ready")

    # Encryption

    def _encrypts(self) -> None:
        replica = self._replica
        name = f"{replica.identity.service}:{replica.identity.place}"
        for store in replica.stores.values():
            self._plant(name, store.entry.name, store.put_canary, store.raw_canary)
        if not replica.stores:
            folder = replica.paths.own / "canaries"
            file = folder / f"{replica.identity.service}-{replica.identity.place}"
            self._plant(name, "files", lambda _name, sealed: _write(file, sealed), lambda _name: file.read_bytes())

    def _plant(self, name: str, where: str, put: Callable[[str, bytes], None], raw: Callable[[str], bytes]) -> None:
        cipher, place = self._replica.cipher, Place("canary", "text", name)
        sealed = cipher.encrypt(_CANARY, place)
        put(name, sealed)
        stored = raw(name)
        if not stored:
            raise Reason(f"{where}: the canary was not stored")
        # Other replicas have other names, so what is stored must be exactly what was written.
        if _CANARY.encode() in stored or any(word.encode() in stored for word in _CANARY.split() if len(word) > 5):
            raise Reason(f"{where}: the canary is readable")
        if cipher.decrypt(stored, place) != _CANARY:
            raise Reason(f"{where}: the canary does not open")

    # Access

    def _refuses(self) -> None:
        replica = self._replica
        good = replica.tokens.issue(replica.identity.service, (PROTECTED_SCOPE,), life_s=60)
        forged = good[:-8] + ("AAAAAAAA" if not good.endswith("AAAAAAAA") else "BBBBBBBB")
        other = replica.tokens.issue(replica.identity.service, ("nothing:at-all",), life_s=60)
        for what, token, wanted in (
            ("without a token", None, 401),
            ("with a forged token", forged, 401),
            ("without the scope", other, 403),
            ("with a good token", good, 200),
        ):
            # A connection kept open to itself would look like a client while the replica is drained.
            headers = {"Connection": "close"} | ({"Authorization": f"Bearer {token}"} if token else {})
            status = self._self.ask("GET", PROTECTED_PATH, timeout_s=2.0, headers=headers).status
            if status != wanted:
                raise Reason(f"a request {what} was answered {status}")


def _write(file: Path, sealed: bytes) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(sealed)
    part.replace(file)
