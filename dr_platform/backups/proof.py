"""Proving a backup: it is restored where nobody can see it, and the copy is asked what the source was asked.

Here: the checks, their order, and what their answers make of the backup. Not here: how an engine restores.

Only a restore proves a backup. Every check has a name and an answer; the first that fails decides, and those
after it are not tried. What could not be tried, for want of a server on this machine for example, proves
nothing and condemns nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from dr_platform.backups import bucket as layout
from dr_platform.backups.errors import DamagedBackup
from dr_platform.backups.manifest import CheckResult, Manifest, Proof, written
from dr_platform.backups.port import BackupEngine, Facts, Probe, Restoration, StoredBackup
from dr_platform.backups.reading import BackupReader
from dr_platform.clock import Clock
from dr_platform.errors import ExitCode, PlatformError, TemporaryFailure
from dr_platform.identity import new_id

T = TypeVar("T")
_NAMED = 3
"""Tables named in a reason; the others are counted."""


@dataclass(frozen=True)
class Budget:
    """``restore_s`` is what the policy allows a restore (its RTO); ``limit_s`` is when the attempt is ended."""

    restore_s: float
    limit_s: float


class _TookTooLong(PlatformError):
    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.what = f"the restore was ended after {seconds:.0f} s"


@dataclass(frozen=True)
class Prover:
    """Proves backups of one bucket and writes down what it found."""

    reader: BackupReader
    clock: Clock
    identify: Callable[[str], str] = new_id

    def prove(self, database: str, backup_id: str, engine: BackupEngine, budget: Budget, actor: str) -> Proof:
        """Restore it into a scratch server and compare. What it finds is an answer, not an error; only a
        backup whose manifest cannot be read, and a bucket that does not answer, raise."""
        manifest, sha256 = self.reader.manifest(database, backup_id)
        began = self.clock.monotonic()
        checks = tuple(self._checks(manifest, engine, budget))
        state, reason = judged(checks)
        now = self.clock.now()
        proof = Proof(
            backup_id=backup_id,
            manifest_sha256=sha256,
            at=now,
            actor=actor,
            state=state,
            reason=reason,
            seconds=self.clock.monotonic() - began,
            checks=checks,
        )
        name = self.identify(f"{now:%Y%m%dT%H%M%SZ}")
        key = f"{layout.proofs_folder(database, backup_id)}/{name}.json"
        self.reader.bucket.objects.put(key, written(proof, self.reader.keys))
        return proof

    def _checks(self, manifest: Manifest, engine: BackupEngine, budget: Budget) -> Iterator[CheckResult]:
        try:
            yield self._parts_intact(manifest)
            chain = self.reader.chain(manifest.database, manifest.backup_id)
            yield _check("keys_open", True, f"{len(chain)} data keys opened")
        except DamagedBackup as exc:
            yield _check("parts_intact", False, f"{exc.damage}: {exc.detail}")
            return
        yield from self._restored(manifest, chain, engine, budget)

    def _parts_intact(self, manifest: Manifest) -> CheckResult:
        manifests = self.reader.manifests(manifest.database, manifest.backup_id)
        size = sum(self.reader.verify_parts(found) for found in manifests)
        count = sum(len(found.parts) for found in manifests)
        return _check("parts_intact", True, f"{count} parts are what was written", size_bytes=size)

    def _restored(
        self, manifest: Manifest, chain: Sequence[StoredBackup], engine: BackupEngine, budget: Budget
    ) -> Iterator[CheckResult]:
        began = self.clock.monotonic()
        try:
            with engine.scratch() as restoration:
                found, probes = within(budget.limit_s, lambda: _asked(restoration, chain))
        except DamagedBackup as exc:
            yield _check("restores", False, f"{exc.damage}: {exc.detail}")
            return
        except TemporaryFailure as exc:
            yield _check("restores", None, f"could not look: {exc.what}")
            return
        except PlatformError as exc:
            passed = None if exc.exit_code is ExitCode.UNAVAILABLE else False
            yield _check("restores", passed, exc.what)
            return
        except Exception as exc:  # noqa: BLE001 - an engine's own error says that it is not restored; its text may quote rows
            yield _check("restores", False, f"unexpected {type(exc).__name__}")
            return
        seconds = self.clock.monotonic() - began
        yield _check("restores", True, "a scratch server took it and is gone again", restore_s=seconds)
        yield from compared(manifest.facts, found)
        yield from (_check(p.name, p.passed, p.detail, **p.measurements) for p in probes)
        in_time = seconds <= budget.restore_s
        yield _check("in_time", in_time, f"{seconds:.1f} s of {budget.restore_s:.0f} s", restore_s=seconds)


def _asked(restoration: Restoration, chain: Sequence[StoredBackup]) -> tuple[Facts, tuple[Probe, ...]]:
    restoration.restore(chain)
    return restoration.facts(), tuple(restoration.probes())


def within(seconds: float, act: Callable[[], T]) -> T:
    """The act in a thread of its own. One that takes too long is left behind: the end of the scratch server
    takes its connections away."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(act())
        except BaseException as exc:  # noqa: BLE001 - raised again below, where somebody waits for it
            errors.append(exc)

    thread = threading.Thread(target=run, name="restore-proof", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise _TookTooLong(seconds)
    return results[0]


def compared(source: Facts, copy: Facts) -> Iterator[CheckResult]:
    """What the copy says against what the source said. Pure."""
    yield _rows(source, copy)
    if not source.exact:
        yield _check("fingerprints_equal", None, "the source went on changing while it was read")
    elif not copy.exact:
        yield _check("fingerprints_equal", None, "what had expired since the backup was not brought back")
    else:
        yield _fingerprints(source, copy)
    yield _equal("schema_equal", "schema", source.schema_fingerprint, copy.schema_fingerprint)
    yield _equal("migration_equal", "newest migration", source.migration_version, copy.migration_version)
    if source.heartbeat:
        detail = "the copy has" if source.heartbeat == copy.heartbeat else "the copy does not have"
        passed = source.heartbeat == copy.heartbeat
        yield _check("heartbeat", passed, f"{detail} what was written right before the backup")
    yield _extensions(source, copy)


def _rows(source: Facts, copy: Facts) -> CheckResult:
    found = {table.name: table.rows for table in copy.tables}
    wanted = {table.name: table.rows for table in source.tables}
    if not source.exact:
        odd = [name for name, rows in wanted.items() if found.get(name, -1) < rows]
    elif not copy.exact:
        odd = [name for name in {**wanted, **found} if not 0 <= found.get(name, -1) <= wanted.get(name, -1)]
    else:
        odd = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    told = [f"{name}: {found.get(name, 'no table')} of {wanted.get(name, 'no table')}" for name in sorted(odd)[:_NAMED]]
    rows = sum(found.values())
    if odd:
        return _check("rows_equal", False, f"{len(odd)} tables differ: {'; '.join(told)}", rows=rows)
    return _check("rows_equal", True, f"{rows} rows in {len(found)} tables", rows=rows)


def _fingerprints(source: Facts, copy: Facts) -> CheckResult:
    if source.algorithm != copy.algorithm:
        return _check("fingerprints_equal", False, f"measured by {copy.algorithm}, not by {source.algorithm}")
    found = {table.name: table.fingerprint for table in copy.tables}
    odd = sorted(table.name for table in source.tables if found.get(table.name) != table.fingerprint)
    if odd:
        return _check("fingerprints_equal", False, f"{len(odd)} tables differ: {', '.join(odd[:_NAMED])}")
    return _check("fingerprints_equal", True, f"{len(source.tables)} tables")


def _equal(name: str, what: str, source: str, copy: str) -> CheckResult:
    if source == copy:
        return _check(name, True, f"the {what} is that of the source")
    return _check(name, False, f"the {what} is not that of the source")


def _extensions(source: Facts, copy: Facts) -> CheckResult:
    missing = sorted(set(source.extensions) - set(copy.extensions))
    detail = f"missing: {', '.join(missing)}" if missing else f"{len(source.extensions)} as in the source"
    return _check("extensions", not missing, detail)


def _check(name: str, passed: bool | None, detail: str, **measurements: float) -> CheckResult:
    return CheckResult(name=name, passed=passed, detail=detail, measurements=measurements)


_MUST_ANSWER = frozenset({"parts_intact", "keys_open", "restores", "rows_equal", "schema_equal"})


def judged(checks: Sequence[CheckResult]) -> tuple[Literal["verified", "failed", "unknown"], str]:
    """One failure fails it. What could not be tried is no failure, but without the checks that every
    engine can answer nothing is proved."""
    bad = next((check for check in checks if check.passed is False), None)
    if bad is not None:
        return "failed", f"{bad.name}: {bad.detail}"
    passed = {check.name for check in checks if check.passed}
    if blind := next((check for check in checks if check.passed is None and check.name in _MUST_ANSWER), None):
        return "unknown", f"{blind.name}: {blind.detail}"
    if missing := sorted(_MUST_ANSWER - passed):
        return "unknown", f"not tried: {', '.join(missing)}"
    blind_to = [check.name for check in checks if check.passed is None]
    told = f"; not tried: {', '.join(blind_to)}" if blind_to else ""
    return "verified", f"restored and equal in {len(passed)} checks{told}"
