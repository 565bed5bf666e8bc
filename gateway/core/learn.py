"""What a run's answers have been so far: how much output a further call of the same model is likely to have.

Invariant: bounded in runs and in answers of each; nothing is said of a run before it has had ENOUGH finished answers,
nor while its answers hold output that can't be counted as it passes. What never enters: money, a clock, text.
"""

from __future__ import annotations

from collections import OrderedDict, deque

# design.md section 2: a budget in mode `expected` is strict until its run has so many finished answers.
ENOUGH = 10
PERCENT = 95
# The newest answers of a run that count: an agent's steps change their kind every few dozen calls.
KEPT = 64
MOST_RUNS = 4096
# Text has 2.5 bytes a token and more (meter.py, SPARSE_BYTES): an answer with fewer was written partly out of sight.
LEAST_BYTES = 2
FRAMING = 64  # tokens that a provider adds to an answer: roles, names of tools, stops


class Learned:
    """Output of finished answers by run and model. Models that think out of sight are left to the worst case."""

    def __init__(self, most: int = MOST_RUNS) -> None:
        self._most = most
        self._answers: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def note(self, run: str, model: str, output_tokens: int, seen_bytes: int, thought_tokens: int) -> None:
        """An answer has finished: its tokens as billed, what was seen of it, and how much of it was thought."""
        hidden = thought_tokens > 0 or output_tokens * LEAST_BYTES > seen_bytes + FRAMING * LEAST_BYTES
        answers = self._answers.get((run, model))
        if answers is None:
            answers = self._answers[run, model] = deque(maxlen=KEPT)
            if len(self._answers) > self._most:
                self._answers.popitem(last=False)
        else:
            self._answers.move_to_end((run, model))
        answers.append(-1 if hidden else output_tokens)

    def likely(self, run: str, model: str) -> int | None:
        """What 95 of 100 such answers stay within (nearest rank); None: too little is known."""
        answers = self._answers.get((run, model))
        if answers is None or len(answers) < ENOUGH:
            return None
        ranked = sorted(answers)
        if ranked[0] < 0:
            return None
        return max(1, ranked[-(-len(ranked) * PERCENT // 100) - 1])
