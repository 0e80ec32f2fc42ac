"""Refuse requirement files that could install something else tomorrow, or that name where from.

Every requirement must be pinned with at least one hash, no line may carry an address, and the
direct dependencies of the project must all be among them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def faults_of(text: str, name: str) -> list[str]:
    """What is wrong with one requirement file."""
    found = []
    entries = re.sub(r"\\\n\s*", " ", text).splitlines()
    for entry in filter(None, (line.strip() for line in entries)):
        if "://" in entry or entry.startswith(("-i", "--index", "--extra-index", "--find-links")):
            found.append(f"{name}: an address stands in the file; compile it again with `make lock`")
        elif not re.match(r"^[A-Za-z0-9._-]+(\[[^]]*\])?==[^ ;]+", entry):
            found.append(f"{name}: {entry[:60]}: not pinned to one version")
        elif "--hash=sha256:" not in entry:
            found.append(f"{name}: {entry[:60]}: no hash")
    return found


def missing_direct(project: str, locked: str) -> list[str]:
    """Direct dependencies of the project that the lock does not hold."""
    names = [re.match(r"[A-Za-z0-9._-]+", d) for d in tomllib.loads(project)["project"]["dependencies"]]
    have = {line.split("==")[0].split("[")[0].lower() for line in locked.splitlines() if "==" in line}
    return [
        f"requirements/run.txt: {m[0]} is not locked; run `make lock`"
        for m in names
        if m and m[0].lower().replace("_", "-") not in have
    ]


def main() -> int:
    files = {p.name: p.read_text(encoding="utf-8") for p in sorted((ROOT / "requirements").glob("*.txt"))}
    found = [fault for name, text in files.items() for fault in faults_of(text, name)]
    found += missing_direct((ROOT / "pyproject.toml").read_text(encoding="utf-8"), files["run.txt"])
    for fault in found:
        print(fault)
    if not found:
        print(f"requirements: {sum(t.count('==') for t in files.values())} pins, all with hashes, no addresses")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
