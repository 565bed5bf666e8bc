"""Breaks the lines that guard the money, one at a time in a copy of the tree, and says which test noticed.

`make broken` prints one line for each: caught (by which test) or SURVIVED; it fails if one survived, or if a line to be
broken isn't there any more (ledger.md section 13: all tests must fail when the matching line of code is broken).
What never enters: the tree itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEDGER, STORE = "gateway/core/ledger", "gateway/stores/sqlite"
ENGINE, SETTLE, LIMITS = f"{LEDGER}/engine.py", f"{LEDGER}/settle.py", f"{LEDGER}/limits.py"
CONTRACT, NEXT = "tests/contracts/test_store.py", "tests/contracts/test_store_limits.py"
MODEL = "tests/properties/test_ledger_model.py::test_no_interleaving_breaks_a_promise"
PATHS, TRICKS = "tests/properties/test_every_path.py", "tests/properties/test_evasion.py"
STOP, CLAMP = "tests/test_pipeline_stop.py", "tests/test_pipeline_clamp.py"

# what it would do, file, line as it is, line as it is broken, where the test stands that must fail
BROKEN: tuple[tuple[str, str, str, str, str], ...] = (
    ("admit beyond what is held", ENGINE, "if free < need or book", "if book", CONTRACT),
    ("overtake those who wait", ENGINE, "if free < need or book.line.ahead(account.name, ticket):", "if free < need:", CONTRACT),
    ("look at the innermost account only", ENGINE, "    for charge in order.charges:\n        account = book.account(charge.account)\n        limit = limits.in_force(account, charge)\n        if limit is not None and not", "    for charge in order.charges[:1]:\n        account = book.account(charge.account)\n        limit = limits.in_force(account, charge)\n        if limit is not None and not", CONTRACT),
    ("grant without a hold", ENGINE, "account.held += granted[charge.unit]", "account.held += 0", MODEL),
    ("grant a repeated order again", ENGINE, "    if known is not None:\n        return _repeat", "    if False:\n        return _repeat", MODEL),
    ("let a closed gate pass", ENGINE, "        why = book.account(gate).closed\n        if why is not None:", "        why = book.account(gate).closed\n        if False:", CONTRACT),
    ("raise a hold that doesn't fit", ENGINE, "if change > 0 and any(", "if change < 0 and any(", CONTRACT),
    ("keep no reserve for the last call", ENGINE, "aside = limits.reserve_of(charge, need)", "aside = 0", NEXT),
    ("make a second last call", ENGINE, "if account.last is not None and charge.last:\n        return False", "if False:\n        return False", NEXT),
    ("believe an order that knows too little", ENGINE, "if limits.stale(order, line):", "if False:", NEXT),
    ("leave hopeless callers in line", ENGINE, "moved = [name for charge in order.charges for name in send_hopeless_home(book, now, charge.account)]", "moved: list[str] = []", CONTRACT),
    ("wake nobody when room is made", SETTLE, "        serve_line(book, now, touched)", "        pass", CONTRACT),
    ("keep the hold after the end", SETTLE, "account.held -= hold.held[unit]", "account.held -= 0", CONTRACT),
    ("settle twice", SETTLE, "if hold.state not in {HELD, PRESUMED}:\n        return False", "if hold.state not in {HELD, PRESUMED, SETTLED}:\n        return False", CONTRACT),
    ("take an unknown outcome for nothing", SETTLE, "conclude(book, now, hold, PRESUMED, {**amounts_presumed(hold), **seen})", "conclude(book, now, hold, PRESUMED, seen)", MODEL),
    ("release what its process left", SETTLE, "        conclude(book, now, hold, PRESUMED, amounts_presumed(hold))\n        if not hold.told", "        conclude(book, now, hold, VOID, {})\n        if not hold.told", MODEL),
    ("charge one account of several", SETTLE, "        account.spent += delta\n        account.overrun", "        account.spent += delta if name == hold.accounts[0][0] else 0\n        account.overrun", CONTRACT),
    ("hide what was charged beyond the hold", SETTLE, "else max(0, charged[unit] - hold.held[unit])", "else 0", CONTRACT),
    ("book a correction twice", SETTLE, "or correction_id in hold.corrections or", "or", CONTRACT),
    ("give back more than was charged", SETTLE, 'max(-hold.charged["nusd"], delta)', "delta", CONTRACT),
    ("count a call that was sent as none", SETTLE, '{"calls": (actual or {}).get("calls", 0)}', "{}", NEXT),
    ("forget that a last call was void", SETTLE, "if account.last == hold.id and state == VOID:", "if False:", NEXT),
    ("say a threshold at every call", LIMITS, "if word not in account.marks.split():", "if True:", NEXT),
    ("stay in yesterday's window", LIMITS, "if window is None or not window.starts_at <= now < window.ends_at:", "if window is None:", NEXT),
    ("let a caller raise his limit", LIMITS, "lower < account.asked)", "lower > account.asked)", CONTRACT),
    ("let a run go on below its use", LIMITS, "    if _so_far(book, now, account, name.unit) > limit:", "    if False:", NEXT),
    ("refuse after a higher limit", LIMITS, "        account.last = None\n", "        pass\n", NEXT),
    ("ignore an operator's unit", LIMITS, "        if run.capped:\n", "        if False:\n", NEXT),
    ("overtake those who wait elsewhere", f"{LEDGER}/shared.py", "return first < (NO_TICKET if ticket is None else ticket)", "return False", "tests/stores/sqlite/test_processes.py"),
    ("trust what was read before others wrote", f"{STORE}/store.py", '        """Others wrote: what we have in mind may be old."""\n        self._window.book.drop()', '        """Others wrote: what we have in mind may be old."""', NEXT),
    ("let time step back", f"{STORE}/store.py", "self._time = max(self._time, self._now())", "self._time = self._now()", NEXT),
    ("leave a dead process's holds", f"{STORE}/store.py", "        while self._attempt([Op(settle.bury, (instance,), None, False)]):", "        while self._attempt([]):", "tests/stores/sqlite/test_store.py tests/stores/sqlite/test_processes.py"),
    ("answer for a commit that failed", f"{STORE}/store.py", "            lost = self._window.throw_away(ops, done)\n", "            self._tell(done)\n            lost = self._window.throw_away(ops, done)\n", "tests/stores/sqlite/test_store.py"),
    ("send a call whose client has left", "gateway/pipeline.py", "if step.open.gone or step.open.refusal is not None:", "if False:", STOP),
    ("forget that a byte was sent", "gateway/pipeline.py", "            step.sent = True\n", "", PATHS),
    ("take silence for an answer that failed unsent", "gateway/core/relay.py", "    if not failure.sent:\n", "    if True:\n", PATHS),
    ("take who leaves for one who heard all", "gateway/core/outcome.py", 'if ending.way in ("unsent", "refused") or not ending.sent:', 'if ending.way in ("unsent", "refused", "left") or not ending.sent:', TRICKS),
    ("charge nothing where no usage came", "gateway/core/outcome.py", 'return outcome, "presumed", None', 'return outcome, "price_list", 0', TRICKS),
    ("never cut who writes past his grant", "gateway/core/relay.py", "                    watch.over = True\n", "                    pass\n", CLAMP),
    ("lower the hold below what may still come", "gateway/core/hold.py", "await _set(p, step, unit, amount)\n\n    return adjust", "await _set(p, step, unit, amount // 4)\n\n    return adjust", CLAMP + " tests/core/test_hold.py"),
    ("round a cost down", "gateway/core/price.py", "return -(-total * permille // PER)", "return total * permille // PER", "tests/core/test_price.py"),
)  # fmt: skip


def main() -> int:
    """Breaks each line and tells; 1 if one survived. Words on the command line choose by file or by what it would do."""
    wanted = [one for one in BROKEN if all(word in " ".join(one[:2]) for word in sys.argv[1:])]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "*_cache", ".hypothesis", "build"))
        for what, file, line, instead, where in wanted:
            place = copy / file
            before = place.read_text("utf-8")
            if line not in before:
                said = "GONE: the line isn't there any more"
            else:
                place.write_text(before.replace(line, instead, 1), "utf-8")
                said = noticed(copy, where.split())
                place.write_text(before, "utf-8")
            survived += not said.startswith("caught")
            print(f"{file.removeprefix('gateway/')}: {what}: {said}", flush=True)
    print(f"{len(wanted) - survived} of {len(wanted)} caught")
    return 1 if survived else 0


def noticed(copy: Path, where: list[str]) -> str:
    """Which test fails now."""
    asked = [sys.executable, "-m", "pytest", "-x", "--timeout", "120", *where]
    try:
        ran = subprocess.run(asked, cwd=copy, capture_output=True, text=True, check=False, timeout=600)
    except subprocess.TimeoutExpired:
        return "caught by never coming to an end"
    failed = re.search(r"^(?:FAILED|ERROR) \S*::(\S+)", ran.stdout, re.MULTILINE)
    if ran.returncode == 1 and failed:
        return f"caught by {failed[1]}"
    return "SURVIVED" if ran.returncode == 0 else f"BROKEN OTHERWISE: {ran.stdout[-500:]}{ran.stderr[-500:]}"


if __name__ == "__main__":
    sys.exit(main())
