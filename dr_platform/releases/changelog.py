"""What a deployment changed, as a Markdown entry for people.

Here: wording, from values alone. Not here: how releases differ (``bundle``), or who is told
(``tracker``). Equal values give equal text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from dr_platform.databases.port import Phase
from dr_platform.releases.bundle import Member, ReleaseBundle, ReleaseDiff, SchemaChange, ServiceChange

_SHORT = 12
_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|#"} | {"\n": " ", "\r": " "})


@dataclass(frozen=True)
class Deployment:
    """A release that entered an environment."""

    release: ReleaseBundle
    change: ReleaseDiff
    environment: str
    at: datetime
    by: str


def changelog_entry(deployment: Deployment) -> str:
    """One section that ends in a line end, for the top of a changelog."""
    sections = [_heading(deployment)]
    sections += _services(deployment.change.services)
    sections += _schema(deployment.change.databases)
    sections += _contracts(deployment.change)
    if deployment.change.empty:
        sections.append("Nothing differs from what ran before.")
    return "\n\n".join(sections) + "\n"


def _heading(deployment: Deployment) -> str:
    release, before = deployment.release, deployment.change.before
    title = f"## {release.name} in {deployment.environment}, {deployment.at:%Y-%m-%d %H:%M} UTC"
    replaced = f"replaces {before}" if before else "the first release here"
    facts = f"Deployed by {_text(deployment.by)}; {replaced}. Digest `{release.digest}`."
    return "\n\n".join([title, *([_text(release.description)] if release.description else []), facts])


def _services(changes: Sequence[ServiceChange]) -> Iterator[str]:
    if not changes:
        return
    rows = [f"| {c.service} | {_shown(c.before, c)} | {_shown(c.after, c)} | {', '.join(c.aspects)} |" for c in changes]
    head = ["| Service | Before | After | What changed |", "| --- | --- | --- | --- |"]
    yield "### Services"
    yield "\n".join([*head, *rows])


def _shown(member: Member | None, change: ServiceChange) -> str:
    """The version, with the part that tells two revisions of one version apart."""
    if member is None:
        return "–"
    revision = member.revision
    details = {"image": _short(revision.digest), "configuration": _short(revision.config_hash)}
    told = [f"{aspect} `{details[aspect]}`" for aspect in change.aspects if aspect in details]
    return " ".join([revision.version, *([f"({', '.join(told)})"] if told else [])])


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_SHORT]


def _schema(changes: Sequence[SchemaChange]) -> Iterator[str]:
    if changes:
        yield "### Schema"
        yield "\n".join(line for change in changes for line in _schema_lines(change))


def _schema_lines(change: SchemaChange) -> Iterator[str]:
    for phase in Phase:
        if versions := [step.version for step in change.added if step.phase is phase]:
            final = "; nothing that uses it can go back after that" if phase is Phase.CONTRACT else ""
            yield f"- {change.database}: {phase} {', '.join(versions)}{final}"
    if change.removed:
        yield f"- {change.database}: stays at steps this release does not have: {_versions(change)}"


def _versions(change: SchemaChange) -> str:
    return ", ".join(step.version for step in change.removed)


def _contracts(change: ReleaseDiff) -> Iterator[str]:
    lines = [line for service in change.services for line in _contract_lines(service)]
    then, now = change.data_contract
    if then is not None and then != now:
        lines.append(f"- data that is handed on has form {now} ({then} before)")
    if lines:
        yield "### Contracts"
        yield "\n".join(lines)


def _contract_lines(change: ServiceChange) -> Iterator[str]:
    then, now = _provided(change.before), _provided(change.after)
    breaking = f"**Breaking** for {', '.join(change.breaks)}: " if change.breaks else ""
    if breaking or (then and now and then != now):
        yield f"- {breaking}{change.service} provides {now or 'nothing'} ({then or 'nothing'} before)"


def _provided(member: Member | None) -> str | None:
    return member.contract.provides if member else None


def _text(value: str) -> str:
    """What people wrote, on one line and without effect as markup."""
    return value.translate(_SPECIAL)
