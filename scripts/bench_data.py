"""Measure what is promised about data, side by side in one run, into ``docs/benchmarks.md``.

Each part writes its own section as soon as it is measured, and says how busy the machine was. Parts start servers of
their own and leave nothing behind.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.report import write_section  # noqa: E402 - the path above must be there first

Lines = list[str]
GZIP, ZSTD = "pg_dump | gzip", "pg_dump | zstd -3 -T2"
PSQL = "gunzip | psql, tuned, to first answer"


def backups() -> Lines:
    from scripts import bench_data_backups

    measured = bench_data_backups.measure()
    rows = {row["name"]: row for row in measured["rows"]}
    size = measured["database_bytes"] / 1e6
    what = (
        f"A database of {size:,.0f} MB: 1.5 million messages, 500,000 people, 150,000 vectors of 384 dimensions with "
        "an HNSW index. Ours are compressed, encrypted, hashed and described; the tools' are plain. Medians of "
        f"{len(rows[GZIP]['seconds'])}."
    )
    return [
        "## Backups of PostgreSQL",
        "",
        what,
        "",
        "| What | s | MB | Seconds, of gzip's | Size, of gzip's |",
        "| --- | --- | --- | --- | --- |",
        *(_backup_row(row, rows[GZIP]) for row in rows.values()),
        "",
        "| Promise | Wanted | Seen |",
        "| --- | --- | --- |",
        *_backup_promises(rows),
    ]


def _backup_row(row: Mapping[str, Any], gzip: Mapping[str, Any]) -> str:
    name = row["name"].replace("|", "\\|")
    if not row["seconds"]:
        return f"| {name} | | {row['size_bytes'] / 1e6:,.0f} | | |"
    size = f"{row['size_bytes'] / 1e6:,.0f}" if row["size_bytes"] else ""
    share = f"{row['size_bytes'] / gzip['size_bytes']:.2f}" if row["size_bytes"] else ""
    return f"| {name} | {row['median']:.1f} | {size} | {row['median'] / gzip['median']:.2f} | {share} |"


def _backup_promises(rows: Mapping[str, Mapping[str, Any]]) -> Lines:
    logical, proved, full = (
        rows["encrypted logical"],
        rows["encrypted and proved by restore"],
        rows["full it begins from"],
    )
    less = rows["incremental, 1.5 % added and 0.5 % changed"]
    first = next(row for name, row in rows.items() if name.startswith("restore of physical-full"))
    found = [
        ("Encrypted logical snapshot, against `pg_dump \\| gzip`", "12 x faster", _times(rows[GZIP], logical)),
        ("Its size, against the same", "0.87 or less", f"{logical['size_bytes'] / rows[GZIP]['size_bytes']:.2f}"),
        ("Encrypted and proved by a restore, in the time of the same", "1/3 or less", _share(proved, rows[GZIP])),
        ("Restore to the first answer, against tuned `gunzip \\| psql`", "8 x faster", _times(rows[PSQL], first)),
        ("Incremental, of the full one's size", "15 % or less", f"{less['size_bytes'] / full['size_bytes']:.0%}"),
        ("Incremental", "3 s or less", f"{less['median']:.1f} s"),
    ]
    if ZSTD in rows:
        found.insert(1, ("The same, against `pg_dump \\| zstd -3 -T2`", "1.4 x faster", _times(rows[ZSTD], logical)))
    return [f"| {what} | {wanted} | {seen} |" for what, wanted, seen in found]


def _times(peer: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    return f"{peer['median'] / ours['median']:.1f} x"


def _share(ours: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    return f"{ours['median'] / peer['median']:.2f}"


def pgbackrest() -> Lines:
    from scripts import bench_data_pgbackrest

    if not bench_data_pgbackrest.available():
        return ["## Beside pgBackRest", "", "pgBackRest and PostgreSQL 15 are not on this machine: not measured."]
    rows = bench_data_pgbackrest.measure(runs=2)["rows"]
    what = (
        "The same rows in Debian's PostgreSQL 15, which is the newest that Debian's pgBackRest 2.45 knows. "
        "Ours reads every table once more for the fingerprints that a proof compares; pgBackRest has no such step."
    )
    return [
        "## Beside pgBackRest",
        "",
        what,
        "",
        "| What | s | MB |",
        "| --- | --- | --- |",
        *(f"| {row['name']} | {row['median']:.1f} | {row['size_bytes'] / 1e6:,.0f} |" for row in rows),
    ]


def memory() -> Lines:
    from scripts import bench_data_backups

    rows = bench_data_backups.measure_memory((0.1, 1.0, 10.0))
    return [
        "## Memory of a backup",
        "",
        "Peak of the backup's own processes, all together; promised are 300 MB, whatever the size.",
        "",
        "| Kind | Read, MB | Peak, MB |",
        "| --- | --- | --- |",
        *(f"| {row['kind']} | {row['raw'] / 1e6:,.0f} | {row['peak'] / 1e6:.0f} |" for row in rows),
    ]


def drill() -> Lines:
    from scripts import bench_data_drill

    found = bench_data_drill.measure()
    text = "From nothing but the bucket and the escrow identity; see [backups](backups.md)."
    return ["## After a disaster", "", text, "", *bench_data_drill.table(found)]


def migrations() -> Lines:
    from scripts import bench_data_migrations

    rows = [asdict(row) for row in bench_data_migrations.measure()]
    return [
        "## Migrations under load",
        "",
        "A table of 5 million rows under 200 writes and 100 reads a second. Promised: nobody waits longer than 100 ms.",
        "",
        "| What | Longest wait, ms | 99 %, ms | Writes and reads | Failed |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row['scenario']} | {row['stall_ms']:.1f} | {row['p99_ms']:.1f} "
            f"| {row['writes'] + row['reads']:,} | {row['failed']} |"
            for row in rows
        ),
    ]


def masking() -> Lines:
    from scripts import bench_data_masking

    return bench_data_masking.section(bench_data_masking.measure())


def loading() -> Lines:
    from scripts import bench_data_loading

    found = bench_data_loading.measure()
    promise = "Promised: 100,000 rows a second of pregenerated rows into PostgreSQL, memory flat."
    return ["## Loading", "", promise, "", *bench_data_loading.table(found)]


PARTS: Mapping[str, Callable[[], Lines]] = {
    part.__name__: part for part in (backups, pgbackrest, memory, drill, migrations, masking, loading)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts, all without it")
    names = parser.parse_args().only
    for name in names:
        if len(names) == 1:
            _write(name)
        else:
            # In a process of its own: peaks of memory and what lies in it are not those of the parts before.
            subprocess.run([sys.executable, __file__, "--only", name], check=True)


def _write(name: str) -> None:
    print(f"{name} …", flush=True)
    lines = PARTS[name]()
    made = (
        f"Made by `make bench-data` on {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load average {os.getloadavg()[1]:.1f} at the end."
    )
    write_section(f"data-{name}", [*lines, "", made])
    print("\n".join(lines), flush=True)
    print("written: docs/benchmarks.md")


if __name__ == "__main__":
    main()
