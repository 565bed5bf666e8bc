"""`python -m dashboards.source` writes what is made; `--check` writes nothing and fails where a file differs."""

from __future__ import annotations

import sys
from pathlib import Path

from dashboards.source import budgets, health, overview, providers, quality, recording, run, runs, tools

PAGES = (overview, runs, run, budgets, tools, providers, quality, health)
FOLDER = Path(__file__).resolve().parents[1]


def texts() -> dict[str, str]:
    """Every file that is made, and its text."""
    boards = [page.build() for page in PAGES]
    made = {f"{board.uid.removeprefix('meterbox-')}.json": board.text() for board in boards}
    return {**made, "rules/recording.yaml": recording.text()}


def main(words: list[str]) -> int:
    """Writes, or checks."""
    wrong = 0
    for name, text in texts().items():
        path = FOLDER / name
        if words == ["--check"]:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                print(f"dashboards/{name} is not what the source makes: run `make dashboards`", file=sys.stderr)
                wrong = 1
        else:
            path.write_text(text, encoding="utf-8")
            print(f"dashboards/{name}")
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
