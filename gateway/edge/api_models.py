"""What `/api` takes and gives, as models: the answers are made from them, and so is the page that describes them.

Invariant: an amount is a plain decimal string with at most nine digits after the point, never rounded and never a
float; an instant is RFC 3339 in UTC; a field that a caller sends and that is not named here is an error.
What never enters: where the values come from, and anything of the data plane (pydantic is not on the hot path).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from gateway.core.types import NUSD

# The ledger refuses an amount above 2**50 nano-dollars (core/ledger/book.py); this is the round figure below it.
MOST_USD = 1_000_000
MOST_COUNT = 1_000_000_000_000  # calls, tokens, seconds

RUN_ID = r"^[A-Za-z0-9._:-]{1,128}$"
NAME = r"^[^\x00-\x1f\x7f]{1,256}$"  # agents and users, as labels allow them

State = Literal["active", "waiting", "paused", "ended", "killed"]
RunOutcome = Literal["completed", "gave_up", "failed", "stopped_by_limit", "killed", "abandoned"]


def _nano(said: object) -> int:
    """An amount in dollars as exact nano-dollars. Raises ValueError for what would need rounding."""
    if isinstance(said, bool) or not isinstance(said, str | int | Decimal):
        raise ValueError("an amount in dollars is a decimal string, for example '0.25'")
    if isinstance(said, str) and (len(said) > 64 or not said.replace(".", "", 1).isascii()):
        raise ValueError("an amount in dollars is a plain decimal string")
    if isinstance(said, str) and not said.replace(".", "", 1).isdigit():
        raise ValueError("an amount in dollars is a plain decimal string, not negative, without exponent or sign")
    sign, digits, exponent = Decimal(said).as_tuple()
    if sign or not isinstance(exponent, int) or len(digits) + exponent > len(str(MOST_USD)):
        raise ValueError(f"an amount in dollars lies between 0 and {MOST_USD}")
    if exponent < -100:  # before any text of that length is made
        raise ValueError("an amount in dollars has at most nine digits after the point")
    # digit by digit: a Decimal's own arithmetic rounds at 28 digits
    text = "".join(map(str, digits)).rjust(9 - min(exponent, 0), "0") + "0" * max(exponent, 0)
    whole, part = (text[:exponent], text[exponent:].rstrip("0")) if exponent < 0 else (text, "")
    if len(part) > 9:
        raise ValueError("an amount in dollars has at most nine digits after the point")
    nusd = int(whole) * NUSD + int(part.ljust(9, "0"))
    if nusd > MOST_USD * NUSD:
        raise ValueError(f"an amount in dollars lies between 0 and {MOST_USD}")
    return nusd


_USD = {"type": "string", "pattern": r"^-?\d+(\.\d{1,9})?$", "examples": ["0.0125"]}
_INSTANT = {"type": "string", "format": "date-time", "examples": ["2026-11-20T12:00:00.250Z"]}

Usd = Annotated[str, WithJsonSchema(_USD)]
Instant = Annotated[str, WithJsonSchema(_INSTANT)]
AskedNusd = Annotated[int, BeforeValidator(_nano), WithJsonSchema(_USD)]
AskedCount = Annotated[int, Field(ge=0, le=MOST_COUNT)]
Word = Annotated[str, Field(max_length=1000)]


class Answered(BaseModel):
    """What is given: every field is always there."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Asked(BaseModel):
    """What is taken: no field that isn't named, no type that only resembles."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# --------------------------------------------------------------------------- given


class ErrorBody(Answered):
    """What went wrong: a word for programs, a sentence for people."""

    code: str
    message: str


class Failure(Answered):
    """Every answer from 400 on."""

    error: ErrorBody


class Limits(Answered):
    """The limits in force, each the lower of configuration and request; null where nothing limits."""

    usd: Usd | None = None
    calls: int | None = None
    tool_calls: int | None = None
    tokens: int | None = None
    seconds: int | None = None


class RunItem(Answered):
    """A run at one instant. Money comes from the ledger and includes descendants, except `own_spent_usd`."""

    run_id: str
    key: str | None = Field(description="The virtual key that the run belongs to: what ?key= takes")
    source: str
    parent: str | None
    agent: str | None
    user: str | None
    session: str | None
    state: State
    outcome: RunOutcome | None
    reason: str | None
    started_at: Instant
    last_at: Instant
    ended_at: Instant | None
    calls: int
    tool_calls: int
    errors: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    spent_usd: Usd
    own_spent_usd: Usd
    held_usd: Usd
    overrun_usd: Usd
    limits: Limits
    trace_id: str | None


class UsageItem(Answered):
    """Tokens as the provider told them; totals include their parts; null where the wire was silent."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated: bool = False


class ToolCallItem(Answered):
    """A tool call as the model emitted it."""

    id: str
    name: str
    known: bool
    valid: bool | None


class AttemptItem(Answered):
    """One upstream try of a call."""

    provider: str
    model: str
    status: int | None
    outcome: str
    cost_usd: Usd | None


class CallItem(Answered):
    """A call whose answer has ended."""

    call_id: str
    step: int
    dialect: str
    provider: str
    request_model: str
    response_model: str | None
    stream: bool
    started_at: Instant
    duration_ms: float
    ttft_ms: float | None
    status: int | None
    outcome: str
    reason: str | None = Field(description="Refusal code, error type, or why it was cut")
    finish_reason: str | None
    usage: UsageItem
    cost_usd: Usd | None
    cost_source: str
    hold_usd: Usd
    clamped: int | None
    tool_calls: list[ToolCallItem]
    findings: list[dict[str, Any]]
    attempts: list[AttemptItem]


class ToolItem(Answered):
    """A tool call joined with its result, as far as one was seen."""

    id: str
    name: str
    step: int
    started_at: Instant
    ended_at: Instant | None
    duration_ms: float | None
    is_error: bool | None
    repeated: bool


class HeldItem(Answered):
    """A call under way: what it holds until its answer ends, at the latest until its deadline."""

    call_id: str
    run_id: str
    model: str
    started_at: Instant
    deadline_at: Instant
    held_usd: Usd
    held_tokens: int | None = Field(description="Where a budget counts tokens")


class BudgetItem(Answered):
    """One account of a budget. Dollars are decimal strings, other units integers."""

    name: str
    scope: str = Field(
        description="As configured: run, agent:*, agent:NAME, user:*, user:NAME, key:*, key:NAME, global"
    )
    account: str = Field(description="run/R/UNIT, or the words of a refusal: agent:NAME, user:NAME, key:NAME, global")
    unit: str = Field(description="usd, calls, tool_calls, tokens, seconds")
    per: str
    mode: str
    limit: Usd | int | None
    spent: Usd | int
    held: Usd | int
    overrun: Usd | int
    window_started_at: Instant | None
    resets_at: Instant | None
    exhausted_at: Instant | None = Field(
        description="At the pace so far in this window, or of this run; null if it lasts until the end"
    )


class RunPage(Answered):
    """A page of runs."""

    items: list[RunItem]
    next_cursor: str | None


class CallPage(Answered):
    """A page of calls."""

    items: list[CallItem]
    next_cursor: str | None


class ToolPage(Answered):
    """A page of tool spans."""

    items: list[ToolItem]
    next_cursor: str | None


class HeldPage(Answered):
    """A page of calls under way."""

    items: list[HeldItem]
    next_cursor: str | None


class BudgetPage(Answered):
    """A page of budget accounts."""

    items: list[BudgetItem]
    next_cursor: str | None


class Switched(Answered):
    """What a kill switch did."""

    gate: str = Field(description="global, agent/NAME or user/NAME")
    open: bool
    runs: int = Field(description="Runs that it made killed")
    calls: int = Field(description="Open calls whose streams it ended")


class Noted(Answered):
    """Written to the journal."""

    run_id: str
    at: Instant


class Health(Answered):
    """Alive, or ready."""

    status: str


# --------------------------------------------------------------------------- taken


class NewLimits(Asked):
    """Limits of a run: dollars as a decimal string, everything else as whole numbers."""

    usd: AskedNusd | None = None
    calls: AskedCount | None = None
    tool_calls: AskedCount | None = None
    tokens: AskedCount | None = None
    seconds: AskedCount | None = None

    def by_unit(self) -> dict[str, int]:
        """What is asked for, by the ledger's unit and in its numbers."""
        said = {"nusd": self.usd, "calls": self.calls, "tool_calls": self.tool_calls}
        said |= {"tokens": self.tokens, "seconds": self.seconds}
        return {unit: amount for unit, amount in said.items() if amount is not None}


class NewRun(Asked):
    """A run to be made before its first call."""

    run_id: str | None = Field(default=None, pattern=RUN_ID)
    agent: str | None = Field(default=None, pattern=NAME)
    user: str | None = Field(default=None, pattern=NAME)
    parent: str | None = Field(default=None, pattern=RUN_ID)
    limits: NewLimits | None = None


class Ending(Asked):
    """How a run ended, in its owner's judgement."""

    outcome: Literal["completed", "gave_up", "failed", "stopped_by_limit", "abandoned"] = "completed"
    reason: Word | None = None


class Why(Asked):
    """The reason that a killed run's callers read."""

    reason: Word = ""


class Nothing(Asked):
    """No field at all."""


class Transition(Asked):
    """A change of the agent's own state, kept in the journal."""

    to: Annotated[str, Field(min_length=1, max_length=200)]
    reason: Word | None = None


class Feedback(Asked):
    """What somebody thought of a run, kept in the journal."""

    score: int | Decimal | None = None
    comment: Word | None = None
    source: Annotated[str, Field(max_length=200)] | None = None


class Target(Asked):
    """All runs, those of one agent, or those of one user: exactly one of the three."""

    all: Literal[True] | None = None
    agent: str | None = Field(default=None, pattern=NAME)
    user: str | None = Field(default=None, pattern=NAME)

    @model_validator(mode="after")
    def _one(self) -> Target:
        if sum(named is not None for named in (self.all, self.agent, self.user)) != 1:
            raise ValueError("name exactly one of all (true), agent, user")
        return self

    def gate(self) -> str:
        """The account that this switch closes or opens."""
        if self.agent is not None:
            return f"agent/{self.agent}"
        return f"user/{self.user}" if self.user is not None else "global"


class KillSwitch(Target):
    """Whom to stop, and why."""

    reason: Word = ""
