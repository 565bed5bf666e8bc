"""Many random lives on all cores: one process a core, each a search of its own in rounds that are short in memory.

`python -m tests.properties.shards LIVES STEPS SEED` is one of them; its last line says what it did. The lives are the
same each time; METERBOX_TEST_SEED=random looks for others. What never enters: a claim (test_ledger_machine has it).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, given, note, seed, settings

from tests.properties.machine import STEP_BYTES, live

ROOT = Path(__file__).resolve().parents[2]
SEED = 193_863_034
ROUND = 1_000  # lives of one search: hypothesis remembers each one it tried


def search(lives: int, steps: int, number: int) -> int:
    """So many lives, thrown by this number; how many steps they had. Raises what is wrong, made small."""
    done = 0
    thrown = st.lists(st.binary(min_size=STEP_BYTES, max_size=STEP_BYTES), min_size=steps, max_size=steps)

    @seed(number)
    @settings(
        max_examples=lives, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    @given(processes=st.integers(1, 2), thrown=thrown)
    def any_order(processes: int, thrown: list[bytes]) -> None:
        nonlocal done
        done += live(processes, thrown, note).steps

    any_order()
    return done


def chosen(said: str | None) -> int:
    """The number to throw by: always the same, so that a change is judged by what it changed; `random` searches anew,
    and a number tells again what a search found."""
    if said == "random":
        return int.from_bytes(os.urandom(4), "little")
    return SEED if said is None else int(said)


def on_all_cores(lives: int, steps: int, first: int | None = None) -> dict[str, Any]:
    """Lives, steps and seconds of all shards together. Raises AssertionError with what the first broken one printed."""
    began, cores = time.monotonic(), os.cpu_count() or 1
    first = chosen(os.environ.get("METERBOX_TEST_SEED")) if first is None else first
    shards = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.properties.shards", str(-(-lives // cores)), str(steps), str(first + core)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for core in range(cores)
    ]  # fmt: skip
    said = [shard.communicate()[0] for shard in shards]
    for shard, text in zip(shards, said, strict=True):
        assert shard.returncode == 0, f"shards {first} and following: {text[-20_000:]}"
    told = [json.loads(text.strip().splitlines()[-1]) for text in said]
    total: dict[str, Any] = {key: sum(one[key] for one in told) for key in ("lives", "steps")}
    return {**total, "seconds": round(time.monotonic() - began), "cores": cores, "seed": first}


def main(lives: int, steps: int, number: int) -> None:
    """One shard."""
    done = steps_done = 0
    while done < lives:
        many = min(ROUND, lives - done)
        steps_done += search(many, steps, number * 1_000_003 + done)
        done += many
    print(json.dumps({"lives": done, "steps": steps_done}))


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:4]))
