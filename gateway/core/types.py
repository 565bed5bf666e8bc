"""The nouns of the house: what a call is, what it may cost, what came of it. Values only, no behaviour.

Invariant: money is an integer of nano-dollars (`_nusd`, 1 USD = 10**9); instants (`_at`) are epoch seconds as float;
every value here can be made, compared and written down without I/O. What never enters: a provider's name in a
condition, a clock, a socket, a secret in clear (credentials are digests here).
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from gateway.core.windows import Calendar

NUSD = 1_000_000_000

# --------------------------------------------------------------------------- who and where


class Quirks(Struct, frozen=True):
    """What a preset does differently on the wire (wire-formats.md sections 1, 2, 4)."""

    usage_option: bool = False  # honours stream_options.include_usage, and needs it to tell usage in a stream
    output_field: str = ""  # openai-chat: the limit's name that is accepted when we must add one
    states_cost: bool = False  # usage.cost or cost_in_usd_ticks is the amount billed
    reasoning_outside: bool = False  # chat: reasoning tokens come on top of completion_tokens (xAI)
    auth: str = "bearer"  # bearer | x-api-key | api-key: where the section's own key goes
    openai_tokenizer: bool = False  # byte-level BPE that does not normalise: bytes bound tokens as they are
    path_model: bool = False  # the path names the model or deployment (Azure)


class Provider(Struct, frozen=True):
    """A configured section: an origin, what it speaks, how it is paid."""

    name: str
    preset: str
    origin: str  # scheme://host[:port][/prefix], no trailing slash
    dialects: tuple[str, ...]
    price_ids: tuple[str, ...] = ()  # providers of the price list to ask, in order; empty: by model alone
    quirks: Quirks = Quirks()
    has_key: bool = False  # the section holds a credential; else the client's own passes through
    local: bool = False
    connect_s: float = 5.0
    first_token_s: float = 120.0
    gap_s: float = 60.0
    total_s: float = 3600.0
    retries: int = 0


class Key(Struct, frozen=True):
    """A virtual key that was accepted; never its secret."""

    name: str
    agent: str | None = None
    user: str | None = None
    in_flight: int = 512


class Labels(Struct, frozen=True):
    """What the caller says of itself; hints, never authority. Taken off before the call goes on."""

    run_id: str | None = None  # explicit: path or x-meterbox-run-id
    run_source: str = ""  # path | header
    client_session: str | None = None  # step 3: headers that clients send already
    traceparent: str | None = None  # trace id, 32 hex
    parent_span: str | None = None
    parent_run_id: str | None = None
    agent: str | None = None
    user: str | None = None
    session: str | None = None
    limit_nusd: int | None = None
    retry: bool = False  # the SDK says that this is a repeat (x-stainless-retry-count > 0)
    client: str = ""  # codex | claude-code | "": the one small table of http.md section 3


class Inbound(Struct, frozen=True):
    """One HTTP request as it arrived, its path taken apart, its body whole."""

    method: str
    section: str | None  # the provider section in front of the path; None: the dialect's default provider
    path: str  # what goes to the provider, each segment in its own spelling, without section, run, key
    match: str  # the same, percent-decoded once: what is compared
    query: str  # own spelling, without "?"
    headers: tuple[tuple[str, str], ...]  # names in lower case, order and repeats kept
    body: bytes
    labels: Labels
    tenant: str  # key name, or digest of the client's own credential: runs are never inferred across it
    key: Key | None
    at: float

    def header(self, name: str) -> str | None:
        """First value of a header, by its lower-case name."""
        for have, value in self.headers:
            if have == name:
                return value
        return None


# --------------------------------------------------------------------------- what is asked


class Hosted(Struct, frozen=True):
    """A tool that the provider itself runs: it costs fees, and each use reads the context again."""

    kind: str  # web_search, web_fetch, file_search, code_interpreter, image_generation, mcp, ...
    uses: int | None = None  # max_uses | max_tool_calls as asked; None: not capped
    cappable: bool = False  # we know the field that caps it


class Lineage(Struct, frozen=True):
    """Where a conversation stands, as hashes: enough to know it again, nothing to read it by (design.md section 3)."""

    first: int = 0  # canonical hash of the first message, 0 without any
    system: int = 0  # hash of what stands outside of the messages (Anthropic system, Responses instructions)
    chain: tuple[int, ...] = ()  # chain[i]: hash of messages 0..i, in order
    answers: tuple[int, ...] = ()  # positions i whose message is an answer of the model
    last_answer: int = 0  # canonical hash of the last answer that the request quotes
    ids: tuple[str, ...] = ()  # tool call ids in fields, in order of first appearance
    body_session: str | None = None  # a run id that the body names (step 4)
    previous: str | None = None  # previous_response_id, or the conversation id


class Result(Struct, frozen=True):
    """A tool result in a request: closes the span of a tool call that an earlier answer opened."""

    tool_call_id: str
    name: str | None
    is_error: bool
    digest: int  # of the result's text: equal results are told without keeping them
    size_bytes: int
    position: int  # index of its message in the request


class Size(Struct, frozen=True):
    """What bounds the cost of a request before it is sent (ledger.md section 5)."""

    text_bytes: int = 0  # bound of input tokens by bytes: body less media, with what a normaliser may add
    images: int = 0
    other_media: bool = False  # audio, video, documents, files: bounded by the context window only
    unseen: bool = False  # the request points to input that is not in it
    asked_output: int | None = None  # the client's own limit (the lowest where two names are given)
    choices: int = 1  # n, best_of
    prediction_bytes: int = 0
    thinking: int | None = None  # a thinking budget that must stay below the limit
    hosted: tuple[Hosted, ...] = ()
    tools: bool = False
    tier: str | None = None  # service_tier as asked
    cache_write: str = ""  # "" | "5m" | "1h": the dearest cache write that the request may cause
    embeds: bool = False  # no output at all
    speed: str | None = None
    geo: str | None = None


class Asked(Struct, frozen=True, omit_defaults=True):
    """Parameters of a request, as far as a span shows them; None where the request names none."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    choices: int = 1
    output_type: str | None = None  # text | json | image | speech
    tier: str | None = None
    dimensions: int | None = None  # of an embedding
    encodings: tuple[str, ...] = ()  # formats of an embedding


CallKind = Literal["metered", "free", "retrieve", "opaque"]


class Call(Struct, frozen=True):
    """A request understood as far as we act on it; `body` stays the client's own bytes."""

    dialect: str
    provider: Provider
    kind: CallKind
    operation: str = "chat"  # chat | text_completion | embeddings | compact | count | list | retrieve | other
    model: str = ""
    stream: bool = False
    size: Size = Size()
    lineage: Lineage = Lineage()
    tools: tuple[str, ...] = ()  # offered by name
    results: tuple[Result, ...] = ()  # all tool results in the request; the join knows which are new
    background: bool = False
    response_id: str | None = None  # kind retrieve: which stored response
    asked: Asked | None = None
    usage_asked: bool = False  # the client itself asked for the usage chunk
    edits: Any = None  # the dialect's own note for `rewrite` (spans, fields); nobody else reads it


class Edits(Struct, frozen=True):
    """What a body is sent with instead of what its client wrote (http.md section 2); the rest stays as it came."""

    max_output: int | None = None  # the output limit, under all names that are given; never raised
    ask_usage: bool = False  # the usage chunk of a chat stream
    caps: int | None = None  # uses of a provider-run tool that has no cap of its own
    last: bool = False  # a last call: no tool may be called, though all stay listed
    model: str | None = None  # asked instead of the client's own


# --------------------------------------------------------------------------- what came


class Usage(Struct, omit_defaults=True):
    """Tokens as the provider told them; None where the wire was silent. Totals include their parts."""

    input_tokens: int | None = None  # cached and cache-written parts included
    output_tokens: int | None = None  # reasoning included
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_1h_tokens: int | None = None  # part of cache_write_tokens
    reasoning_tokens: int | None = None
    audio_input_tokens: int | None = None
    audio_output_tokens: int | None = None
    uses: dict[str, int] = field(default_factory=dict)  # provider-run tools: kind -> times
    extra: list[tuple[str, int, int]] = field(default_factory=list)  # (model, input, output) billed apart


class ToolCall(Struct, frozen=True):
    """A tool call as the model emitted it, client-side only."""

    id: str
    name: str
    known: bool = True  # the request offered a tool of this name
    valid: bool | None = None  # arguments parse as a JSON object; None: not judged
    digest: int = 0  # of the arguments' text: equal calls are told without keeping them


class Reply(Struct):
    """What an answer said, as far as we act on it."""

    model: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    usage_complete: bool = False  # the final figure, not a part-way report
    ended: bool = False  # the dialect's terminal event, or a whole body that parsed
    tool_calls: list[ToolCall] = field(default_factory=list)
    tier: str | None = None
    stated_nusd: int | None = None  # what the provider says it billed, where the preset states that
    stated_zero_ok: bool = False  # own keys (BYOK) or a `:free` model: a stated 0 is believed
    output_bytes: int = 0  # UTF-8 bytes of text, thoughts and tool arguments seen
    links: tuple[int, ...] = ()  # canonical hashes of the answer's messages, as the next request will quote them
    error: str | None = None  # in-band error: its type or code
    pending: bool = False  # a stored response that is still being made (background)
    geo: str | None = None
    speed: str | None = None


Outcome = Literal["ok", "upstream_error", "refused", "cut", "client_left", "unknown"]
CostSource = Literal[
    "price_list", "provider", "override", "estimate", "presumed", "unknown_model", "no_usage", "refused"
]


class Attempt(Struct, omit_defaults=True):
    """One upstream try; its reservation is `call_id/n`."""

    provider: str
    model: str
    status: int | None
    outcome: Outcome
    cost_nusd: int | None = None
    started_at: float = 0.0
    ended_at: float = 0.0


class Limited(Struct, frozen=True, omit_defaults=True):
    """The limit that refused a call, in the ledger's own unit and numbers."""

    account: str
    scope: str  # as the refusal spells it: run, agent:NAME, user:NAME, key:NAME, global
    unit: str
    limit: int | None = None
    spent: int = 0
    held: int = 0
    needed: int = 0
    resets_at: float | None = None


class Exchange(Struct, omit_defaults=True):
    """One call from its first byte to its last: what the journal keeps and every projection reads.

    Written without what says nothing (`omit_defaults`, as all that the ledger writes by the thousand): less to spell,
    to sum and to read. What is laid over another (an `amend`) must spell every field.
    """

    call_id: str
    run: str  # run key: the id, or `key~id` where virtual keys give each tenant its own ids
    step: int
    dialect: str
    provider: str
    operation: str
    request_model: str
    stream: bool
    started_at: float
    ended_at: float = 0.0
    first_at: float | None = None  # first byte of the answer's body
    status: int | None = None
    outcome: Outcome = "ok"
    reason: str = ""  # refusal code, error type, why it was cut
    response_model: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    estimated: bool = False
    cost_nusd: int | None = None
    cost_source: CostSource = "refused"
    hold_nusd: int = 0
    clamped: int | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)  # only those new in this call
    attempts: list[Attempt] = field(default_factory=list)
    lineage: Lineage | None = None
    links: tuple[int, ...] = ()
    tenant: str = ""
    tools: tuple[str, ...] = ()
    findings: list[dict[str, Any]] = field(default_factory=list)
    warning: str = ""
    content: Any = None  # True: its messages are captured, an entry `content` follows; a reader lays them here
    reserve_s: float = 0.0  # from the order to the grant; the wait in line is in it
    limited: Limited | None = None  # which limit refused it
    asked: Asked | None = None
    parent_span: str | None = None  # 16 hex: the caller's own span, from its traceparent
    trace_id: str | None = None  # 32 hex: the trace of that span; a run may last over many of its caller's
    tier: str | None = None  # service tier that the answer names
    chunks: int = 0  # reads of a streamed answer's body


# --------------------------------------------------------------------------- money


Unit = Literal["nusd", "calls", "tool_calls", "tokens", "seconds", "inflight"]
# Counted when they have happened, held never: what a model will emit, and how long a call will take, nobody can hold.
COUNTED: frozenset[str] = frozenset({"tool_calls", "seconds"})


class Mark(Struct, frozen=True):
    """Thresholds of one budget: each is recorded once for an account, on what is spent, not on what is held."""

    budget: str
    limit: int
    at: tuple[tuple[str, int], ...]  # ascending; as the operator spelled it, and in per mille: ("0.5", 500)
    shadow: bool = False  # watches a limit of its own; else the limit in force counts


class Charge(Struct, frozen=True):
    """Hold up to `want` on `account`, refuse below `least`. All charges of one unit are granted the same amount.

    account: `kind/name/unit`, e.g. run/R/nusd, agent/research/calls, global/all/nusd; names hold no slash. With a
    `window` the store adds `/label` by its own clock: agent/research/nusd/2026-11-20.
    limit: None counts without limiting. most: how far an operator may have raised it (`max_usd`).
    lower: a caller's limit header; the lowest ever seen for the account stays.
    share: the caller gave no output limit: at most 1/w of what is free while w calls wait or are in flight.
    part: per mille of what is free that one call may hold (`share` of a budget).
    last: a call that doesn't fit beside the reserve of one more is granted once, as the last (`on_exceed`).
    degrade: the model to ask instead when this charge is refused. expected: may be held at the learned output.
    clamp: may be granted less than `want`; else `want` is needed.
    Units in COUNTED are held at nothing: tool_calls are refused once more than `limit` were emitted, seconds once
    `limit` of them have passed.
    """

    account: str
    unit: Unit
    want: int
    least: int
    limit: int | None = None
    most: int | None = None
    lower: int | None = None
    share: bool = False
    part: int = 1000
    window: Calendar | None = None
    last: bool = False
    degrade: str | None = None
    expected: bool = False
    clamp: bool = True
    marks: tuple[Mark, ...] = ()


class Balance(Struct, frozen=True):
    """An account at one instant. `limit` is the one in force."""

    account: str
    limit: int | None
    spent: int
    held: int
    overrun: int = 0


class RunFacts(Struct, frozen=True):
    """What a call says of its run; the store makes the run on first sight and keeps what it knew before.

    fixed: which of the words "agent" and "user" the virtual key says: it stands, whatever a header said before.
    """

    key: str
    id: str
    tenant: str  # key name, "" without virtual keys
    source: str
    parent: str | None = None  # parent's run key
    agent: str | None = None
    user: str | None = None
    session: str | None = None
    trace_id: str | None = None
    fixed: str = ""
    parent_span: str | None = None  # 16 hex: the span of the caller under which the run hangs


class Run(Struct, omit_defaults=True):
    """A run as the ledger knows it at one instant (http.md section 4)."""

    key: str
    id: str
    tenant: str = ""
    source: str = "inferred"
    parent: str | None = None
    agent: str | None = None
    user: str | None = None
    session: str | None = None
    state: str = "active"  # active waiting paused ended killed
    outcome: str | None = None
    reason: str | None = None
    started_at: float = 0.0
    last_at: float = 0.0
    ended_at: float | None = None
    steps: int = 0
    calls: int = 0
    tool_calls: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    own_spent_nusd: int = 0
    episode: int = 1
    episode_at: float = 0.0  # when the present episode began
    trace_id: str | None = None
    last_outcome: str = ""  # of its latest call: decides the outcome at the idle end
    last_finish: str | None = None
    open_tools: int = 0  # tool calls of the latest answer that no result closed
    parent_span: str | None = None  # 16 hex: the caller's span under which the run hangs, with its trace id
    capped: tuple[str, ...] = ()  # units that /limits, or POST /api/runs, limited on this run


class Order(Struct, frozen=True):
    """One request to the ledger: hold all of these charges in one step, or none."""

    id: str  # call_id/attempt; the same order twice gives the same grant
    call_id: str
    run: RunFacts
    charges: tuple[Charge, ...]
    at: float
    deadline_at: float  # the call's total timeout + 60 s: presumed after that
    wait_s: float = 0.0  # held is not spent: how long to wait since the account's last settle; 0: answer at once
    gates: tuple[str, ...] = ()  # accounts that only need to be open (kill switches): run/R, agent/A, user/U, global
    about: tuple[str, str, str, str, bool] = ("", "", "", "", False)  # dialect, provider, operation, model, stream:
    # all that is known of a call whose process dies before settle
    sizes: dict[str, tuple[int, int]] = {}  # unit -> (want, least): for limits that /limits set on the run or a parent
    behind: int = 0  # calls that came in the same moment and follow this one: each has a part in what is free


class Reservation(Struct, frozen=True):
    """Granted: the hold stands and is durable as far as the store's setting says."""

    id: str
    step: int
    granted: dict[str, int]  # unit -> amount, the same on every account of that unit
    balances: tuple[Balance, ...]  # after the hold, one per charge; the run's own dollars first
    last: str = ""  # the account whose last call this is (`on_exceed = "last_call"`)


class Denied(Struct, frozen=True):
    """Not granted; nothing was written."""

    account: str
    unit: str
    # closed: killed; gone: the caller left while waiting; stale: the order knows less of its run than the ledger does
    # (parent, agent or user, told through another process): ask for the run, and order again
    reason: Literal["limit", "closed", "busy", "gone", "stale"]
    balance: Balance | None = None
    needed: int = 0
    why: str = ""  # the reason that was given to /kill; or that the account's last call was used up
    resets_at: float | None = None  # end of the account's window
    degrade: str | None = None  # the model that the refusing budget names instead


class Settled(Struct, frozen=True):
    """What the ledger says after a reservation ended."""

    charged: int | None
    balances: tuple[Balance, ...] = ()
    late: bool = False  # it had been presumed before: trueup
    step: int = 0  # of the call in its run


class Finding(Struct, frozen=True):
    """Something odd that a detector saw (http.md section 4)."""

    finding_id: str
    run: str
    call_id: str
    step: int
    kind: str
    severity: Literal["info", "warn", "critical"]
    action: str
    would: str | None
    reason: str
    evidence: dict[str, Any]
    at: float


class Content(Struct, frozen=True):
    """What was captured of a call, redacted: hashes in order, and the texts (JSON) of those not written down before.

    system: lists of parts; input, output: messages; tools: definitions. truncated: something is missing.
    """

    call_id: str
    run: str
    system: tuple[str, ...] = ()
    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    truncated: bool = False
    rules: int = 0  # version of the rules by which it was redacted
    texts: dict[str, str] = {}
    last: bool = True  # else only some of its texts: the rest, and what names them, come behind


# --------------------------------------------------------------------------- verdicts


class Refusal(Struct, frozen=True):
    """A refusal in the house's own words; a dialect spells it for its caller (http.md section 3)."""

    status: int
    code: str
    message: str
    run_id: str | None = None
    scope: str | None = None
    unit: str = "usd"
    limit: int | None = None  # nano-dollars for usd, else the unit's own number
    spent: int | None = None
    held: int | None = None
    needed: int | None = None
    resets_at: float | None = None
    retryable: bool = False
    retry_after_s: int | None = None
    url: str | None = None


class Grant(Struct, frozen=True):
    """The rules let it go, if these charges can be held."""

    charges: tuple[Charge, ...] = ()


class Pending(Struct, frozen=True):
    """A person must be asked first."""

    reason: str
    wait_s: float


Verdict = Grant | Pending | Refusal


# --------------------------------------------------------------------------- journal


EntryKind = Literal[
    "run", "call", "amend", "end", "kill", "resume", "limit", "threshold", "gate", "correct", "feedback", "transition",
    "mute", "ack", "content",
]  # fmt: skip


class Entry(Struct, frozen=True):
    """One row of the journal, in commit order; projections read these and nothing else."""

    seq: int
    at: float
    kind: str
    run: str
    call_id: str | None
    data: bytes  # msgpack: Exchange for `call`, a small map otherwise
