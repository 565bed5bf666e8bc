"""`python -m tests.bench.ledger`: what a reserve and its settle cost, by budgets, processes, live runs and rows.

Method (docs/performance.md): each line is a file of its own in shared memory (`--folder` for a real disk), one or more
processes of `pairs` at once on it; CPU is user and system time of those processes, callers included; syncs are counted
by a preloaded shim. Medians of the rounds. Figures, no pass or fail.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from gateway.core.ledger import schema
from gateway.core.ledger.book import Account
from gateway.core.types import Run
from tests.bench.pairs import Load, Measured

SHIM = Path(__file__).with_name("syncs.c")
MADE_AT = 1_760_000_000.0
# Two rows of the ledger and one of the journal, as a settled call leaves them, `?` times; no two processes read them.
OLD_ROWS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
INSERT INTO ledger (reservation, account, unit, kind, delta, at, note)
SELECT 'call_' || i || '/1', 'run/old' || (i % 100000) || '/nusd', 'nusd', 'settle', 300000, 1760000000.0, '' FROM n
"""
OLD_ACCOUNTS = """
INSERT INTO account (name, spent, held, open, overrun, lowered)
SELECT account, sum(delta), 0, 0, 0, 0 FROM ledger GROUP BY account
"""


class Line:
    """One line of the table: a load, by so many processes, on a file that holds so many rows already."""

    def __init__(self, what: str, load: Load, processes: int = 1, rows: int = 0) -> None:
        self.what = what
        self.load = load
        self.processes = processes
        self.rows = rows


def lines(rows: int, seconds: float) -> list[Line]:
    """All that is measured."""

    def load(budgets: int = 4, **more: Any) -> Load:
        return Load(budgets=budgets, **{"seconds": seconds, **more})

    one, two, four = "1 process", "2 processes", "4 processes"
    found = [Line(f"{budgets} budgets a call, {one}", load(budgets)) for budgets in (1, 4, 16)]
    found += [Line(f"{budgets} budgets a call, {two}", load(budgets), 2) for budgets in (1, 4, 16)]
    found += [Line(f"{runs:,} live runs, 4 budgets, {one}", load(runs=runs)) for runs in (10, 1_000, 100_000)]
    if rows:
        found.append(Line(f"{rows:,} rows in the file, 4 budgets, {one}", load(), rows=rows))
    found += [
        Line(f"{per_s}/s, 4 budgets, {several}", load(per_s=per_s / many, seconds=2 * seconds), many)
        for per_s, many, several in ((100, 1, one), (300, 1, one), (300, 4, four))
    ]
    found.append(Line(f"4 budgets, {four} as fast as they can", load(callers=8), 4))
    return found


def prepare(file: Path, runs: int, rows: int) -> None:
    """A ledger with so many live runs, and as many rows of calls that are over."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        execute = connection.execute
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=OFF")
        execute("BEGIN")
        for statement in schema.migrations_after(0):
            execute(statement)
        if rows:
            execute(OLD_ROWS, (rows,))
            execute(OLD_ACCOUNTS)
        head, columns, tail = schema.INTO_RUN
        live = [Run(f"r{n}", f"r{n}", "", "header", started_at=MADE_AT, last_at=time.time()) for n in range(runs)]
        marks = ", ".join("?" * columns)
        connection.executemany(f"{head}({marks}){tail}", map(schema.run_row, live))
        head, columns, tail = schema.INTO_ACCOUNT
        marks = ", ".join("?" * columns)
        accounts = (schema.account_row(Account(f"run/{run.key}/nusd")) for run in live)
        connection.executemany(f"{head}({marks}){tail}", accounts)
        execute("COMMIT")
        execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    (file.with_suffix(".instances")).mkdir(exist_ok=True)


def shim(folder: Path) -> Path | None:
    """The counter of syncs, compiled; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    made = folder / "syncs.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(made), str(SHIM), "-ldl"], check=True)
    return made


def run(file: Path, line: Line, preload: Path | None) -> list[Measured]:
    """All processes of a line, side by side."""
    env = {**os.environ, **({"LD_PRELOAD": str(preload)} if preload else {})}
    started = []
    for number in range(line.processes):
        load = msgspec.structs.replace(line.load, seed=number + 1)
        command = [sys.executable, "-m", "tests.bench.pairs", str(file), msgspec.json.encode(load).decode()]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env))
    for process in started:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("a process of the bench ended before it was ready")
    told = []
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in started:
        out, _ = process.communicate(timeout=120)
        told.append(msgspec.json.decode(out, type=Measured))
    return told


def figures(told: Sequence[Measured]) -> dict[str, float]:
    """What a line of the table says."""
    pairs = sum(one.pairs for one in told)
    waits = sorted(wait for one in told for wait in one.reserve_ms)
    counted = [one.syncs for one in told if one.syncs is not None]
    return {
        "pairs/s": sum(one.pairs / one.took_s for one in told),
        "CPU us a pair": sum(one.cpu_s for one in told) / pairs * 1e6,
        "syncs a pair": sum(counted) / pairs if counted else float("nan"),
        "reserve p50, ms": waits[len(waits) // 2],
        "reserve p99, ms": waits[min(len(waits) - 1, len(waits) * 99 // 100)],
    }


def main() -> None:
    """Measures and prints; `--json FILE` keeps the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the large file; 0 leaves it out")
    parser.add_argument("--only", default="", help="lines whose name has this word")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where the files lie while it runs")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    medians: dict[str, dict[str, float]] = {}
    found = [line for line in lines(chosen.rows, chosen.seconds) if chosen.only in line.what]
    width = max(len(line.what) for line in found) + 2
    with tempfile.TemporaryDirectory(prefix="meterbox-ledger-", dir=chosen.folder) as name:
        folder = Path(name)
        preload = shim(folder)
        for line in found:
            file = folder / "ledger.db"
            prepare(file, line.load.runs, line.rows)
            rounds = [figures(run(file, line, preload)) for _ in range(chosen.rounds)]
            medians[line.what] = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            if len(medians) == 1:
                print(f"{'':<{width}}" + "".join(f"{key:>17}" for key in rounds[0]))
            print(
                f"{line.what:<{width}}" + "".join(f"{value:>17.2f}" for value in medians[line.what].values()),
                flush=True,
            )
            for left in folder.glob("ledger.*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    if chosen.json:
        chosen.json.write_text(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
