"""All names that telemetry says: of attributes, events, operations and errors, each once (telemetry contract).

Invariant: a name is spelled here and nowhere else in `gateway/`; nothing below `gen_ai.usage.` is our own invention,
since Langfuse counts every number there as tokens (contract, rule 1). What never enters: values of one call.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

SCOPE: Final = "meterbox"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"

# --------------------------------------------------------------------------- identity, on every span
OPERATION: Final = "gen_ai.operation.name"
CONVERSATION: Final = "gen_ai.conversation.id"
SESSION: Final = "session.id"
USER: Final = "user.id"
AGENT: Final = "gen_ai.agent.name"
RUN_ID: Final = "meterbox.run.id"
CALL_ID: Final = "meterbox.call.id"
KEY_NAME: Final = "meterbox.key.name"
STEP: Final = "meterbox.step"

# --------------------------------------------------------------------------- resource
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE: Final = "service.instance.id"
PHOENIX_PROJECT: Final = "openinference.project.name"

# --------------------------------------------------------------------------- inference
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
STREAM: Final = "gen_ai.request.stream"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
MAX_TOKENS: Final = "gen_ai.request.max_tokens"
TEMPERATURE: Final = "gen_ai.request.temperature"
TOP_P: Final = "gen_ai.request.top_p"
TOP_K: Final = "gen_ai.request.top_k"
FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
SEED: Final = "gen_ai.request.seed"
STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
CHOICES: Final = "gen_ai.request.choice.count"
ENCODINGS: Final = "gen_ai.request.encoding_formats"
DIMENSIONS: Final = "gen_ai.embeddings.dimension.count"
OUTPUT_TYPE: Final = "gen_ai.output.type"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_CREATION: Final = "gen_ai.usage.cache_creation.input_tokens"
CACHE_WRITE: Final = "gen_ai.usage.cache_write.input_tokens"  # instead of the one above, by setting (rule 4)
REASONING: Final = "gen_ai.usage.reasoning.output_tokens"
COST: Final = "gen_ai.usage.cost"
COST_TOTAL: Final = "llm.cost.total"
COST_USD: Final = "meterbox.cost.usd"
COST_NUSD: Final = "meterbox.cost.nusd"
COST_SOURCE: Final = "meterbox.cost.source"
PRICE_VERSION: Final = "meterbox.price.version"
API_TYPE: Final = "openai.api.type"
TIER_ASKED: Final = "openai.request.service_tier"
TIER_USED: Final = "openai.response.service_tier"
SERVER: Final = "server.address"
PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
CALL_OUTCOME: Final = "meterbox.call.outcome"
CALL_REASON: Final = "meterbox.call.reason"
CLAMPED: Final = "meterbox.clamped"
ESTIMATED: Final = "meterbox.usage.estimated"
HOLD_NUSD: Final = "meterbox.hold.nusd"
RESERVE_S: Final = "meterbox.reserve_s"
SECTION: Final = "meterbox.provider.section"
ATTEMPTS: Final = "meterbox.attempts"

# --------------------------------------------------------------------------- HTTP, for attempts and the role `proxy`
HTTP_METHOD: Final = "http.request.method"
HTTP_STATUS: Final = "http.response.status_code"
HTTP_RESENT: Final = "http.request.resend_count"
ATTEMPT_SECTION: Final = "meterbox.attempt.provider"
ATTEMPT_MODEL: Final = "meterbox.attempt.model"
ATTEMPT_OUTCOME: Final = "meterbox.attempt.outcome"
ATTEMPT_NUSD: Final = "meterbox.attempt.cost_nusd"
PROXY_MODEL: Final = "meterbox.request.model"
PROXY_ANSWERED: Final = "meterbox.response.model"
PROXY_INPUT: Final = "meterbox.tokens.input"
PROXY_OUTPUT: Final = "meterbox.tokens.output"
PROXY_ERROR: Final = "meterbox.error.type"
PROXY_AGENT: Final = "meterbox.agent.name"
PROXY_USER: Final = "meterbox.user.id"
PROXY_SESSION: Final = "meterbox.session.id"

# --------------------------------------------------------------------------- tools
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"
TOOL_RECONSTRUCTED: Final = "meterbox.tool.reconstructed"
TOOL_UNCERTAIN: Final = "meterbox.tool.start_uncertain"
TOOL_UNFINISHED: Final = "meterbox.tool.unfinished"
TOOL_REPEATED: Final = "meterbox.tool.repeated"
TOOL_KNOWN: Final = "meterbox.tool.known"
TOOL_VALID: Final = "meterbox.tool.valid"
TOOL_BYTES: Final = "meterbox.tool.result_bytes"

# --------------------------------------------------------------------------- the root
RUN_OUTCOME: Final = "meterbox.run.outcome"
RUN_REASON: Final = "meterbox.run.reason"
RUN_STATE: Final = "meterbox.run.state"
RUN_SOURCE: Final = "meterbox.run.source"
RUN_PARENT: Final = "meterbox.run.parent"
RUN_EPISODE: Final = "meterbox.run.episode"
RUN_COST: Final = "meterbox.run.cost_usd"
RUN_NUSD: Final = "meterbox.run.cost_nusd"
RUN_STEPS: Final = "meterbox.run.steps"
RUN_CALLS: Final = "meterbox.run.calls"
RUN_TOOL_CALLS: Final = "meterbox.run.tool_calls"
RUN_ERRORS: Final = "meterbox.run.errors"
RUN_INPUT: Final = "meterbox.run.input_tokens"
RUN_OUTPUT: Final = "meterbox.run.output_tokens"
BUDGET_LIMIT: Final = "meterbox.budget.limit_usd"
BUDGET_SPENT: Final = "meterbox.budget.spent_usd"
INPUT: Final = "input.value"
INPUT_TYPE: Final = "input.mime_type"
OUTPUT: Final = "output.value"
OUTPUT_TYPE_MIME: Final = "output.mime_type"

# --------------------------------------------------------------------------- what changed after a span was sent
AMEND_DELTA: Final = "meterbox.amend.delta_nusd"
AMEND_COST: Final = "meterbox.amend.cost_nusd"
AMEND_SOURCE: Final = "meterbox.amend.cost_source"
AMEND_INPUT: Final = "meterbox.amend.input_tokens"
AMEND_OUTPUT: Final = "meterbox.amend.output_tokens"
AMEND_KIND: Final = "meterbox.amend.kind"

# --------------------------------------------------------------------------- content (opt-in)
SYSTEM: Final = "gen_ai.system_instructions"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
REDACTION: Final = "meterbox.content.redaction"  # version of the rules by which it was redacted
CONTENT_CUT: Final = "meterbox.content.truncated"

# --------------------------------------------------------------------------- events and log records
DETAILS: Final = "gen_ai.client.inference.operation.details"
EXCEPTION: Final = "gen_ai.client.operation.exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
DENIED: Final = "meterbox.budget.denied"
THRESHOLD: Final = "meterbox.budget.threshold"
WAITED: Final = "meterbox.budget.waited"
CUT: Final = "meterbox.stream.cut"
FINDING: Final = "meterbox.finding"
KILLED: Final = "meterbox.run.killed"
REFUSED: Final = "meterbox.call.refused"
AMENDED: Final = "meterbox.call.amended"
EVALUATION: Final = "gen_ai.evaluation.result"
EVALUATION_NAME: Final = "gen_ai.evaluation.name"
EVALUATION_SCORE: Final = "gen_ai.evaluation.score.value"
EVALUATION_WHY: Final = "gen_ai.evaluation.explanation"
EVENT_ID: Final = "meterbox.event.id"
CODE: Final = "meterbox.refusal.code"
SCOPE_REFUSED: Final = "meterbox.budget.scope"
ACCOUNT: Final = "meterbox.budget.account"
BUDGET: Final = "meterbox.budget.name"
UNIT: Final = "meterbox.budget.unit"
LIMIT: Final = "meterbox.budget.limit"
SPENT: Final = "meterbox.budget.spent"
HELD: Final = "meterbox.budget.held"
NEEDED: Final = "meterbox.budget.needed"
REACHED: Final = "meterbox.budget.reached"
SECONDS: Final = "meterbox.budget.waited_s"
FINDING_ID: Final = "meterbox.finding.id"
FINDING_KIND: Final = "meterbox.finding.kind"
FINDING_SEVERITY: Final = "meterbox.finding.severity"
FINDING_ACTION: Final = "meterbox.finding.action"
FINDING_WOULD: Final = "meterbox.finding.would"
FINDING_REASON: Final = "meterbox.finding.reason"

# A refusal's event by the beginning of its code (http.md section 3); what is not named here is `meterbox.call.refused`.
REFUSAL_EVENTS: Final = MappingProxyType(
    {
        "insufficient_quota": DENIED,
        "limit_": DENIED,
        "price_unknown": DENIED,
        "cost_unbounded": DENIED,
        "rate_limited": "meterbox.rate.denied",
        "run_killed": KILLED,
        "approval_pending": "meterbox.approval.pending",
        "approval_denied": "meterbox.approval.denied",
        "approval_expired": "meterbox.approval.expired",
        "breaker_open": "meterbox.breaker.open",
        "loop_blocked": FINDING,
    }
)

# --------------------------------------------------------------------------- what single backends read
LF_FIRST: Final = "langfuse.observation.completion_start_time"
LF_COSTS: Final = "langfuse.observation.cost_details"
LF_TRACE: Final = "langfuse.trace.name"
LF_TAGS: Final = "langfuse.trace.tags"
LS_SESSION: Final = "langsmith.trace.session_id"
LS_TRACE: Final = "langsmith.trace.name"
LS_SYSTEM: Final = "gen_ai.system"
LS_REASONING: Final = "gen_ai.usage.details.reasoning_tokens"
PX_REASONING: Final = "llm.token_count.completion_details.reasoning"
SN_FIRST: Final = "gen_ai.server.ttft"

# --------------------------------------------------------------------------- the seed articles' names (R-104)
ALIAS_MODEL: Final = "llm.model"
ALIAS_INPUT: Final = "llm.prompt_tokens"
ALIAS_OUTPUT: Final = "llm.completion_tokens"
ALIAS_COST: Final = "llm.cost_usd"
ALIAS_ITERATION: Final = "agent.iteration"
ALIAS_TASK: Final = "agent.task_id"

# --------------------------------------------------------------------------- words
# gen_ai.provider.name by preset; a section that builds on none is called by its own name.
PROVIDERS: Final = MappingProxyType(
    {
        "openai": "openai",
        "anthropic": "anthropic",
        "gemini": "gcp.gemini",
        "vertex": "gcp.vertex_ai",
        "bedrock": "aws.bedrock",
        "azure": "azure.ai.openai",
        "groq": "groq",
        "mistral": "mistral_ai",
        "deepseek": "deepseek",
        "xai": "x_ai",
        "cohere": "cohere",
        "perplexity": "perplexity",
    }
)

# gen_ai.operation.name by the journal's word; Gemini's own format is `generate_content` (contract, section 2).
OPERATIONS: Final = MappingProxyType(
    {
        "chat": "chat",
        "compact": "chat",
        "retrieve": "chat",
        "text_completion": "text_completion",
        "embeddings": "embeddings",
    }
)

API_TYPES: Final = MappingProxyType({"openai-chat": "chat_completions", "openai-responses": "responses"})

# error.type (contract, section 5), besides a provider's status and the codes of our own refusals.
TIMEOUT: Final = "timeout"
CONNECTION: Final = "connection_error"
TRUNCATED: Final = "stream_truncated"
LEFT: Final = "client_disconnected"
STREAM_CUT: Final = "budget_stream_cut"
EXPIRED: Final = "approval_expired"
OTHER: Final = "_OTHER"
TOOL_ERROR: Final = "tool_error"
# Our refusals' codes (http.md section 3); `insufficient_quota` is `budget_exceeded` here.
CODES: Final = frozenset(
    {
        "budget_exceeded", "limit_tokens", "limit_calls", "limit_tool_calls", "limit_seconds", "price_unknown",
        "cost_unbounded", "loop_blocked", "tool_denied", "run_killed", "approval_denied", "unmetered_path",
        "approval_pending", "idempotency_in_flight", "idempotency_mismatch", "rate_limited", "breaker_open",
        "store_unavailable", "overloaded", "invalid_request", "invalid_key", "not_found", "request_timeout",
        "body_too_large", "unsupported_encoding", "websocket_unsupported",
    }
)  # fmt: skip
WORDS: Final = frozenset({TIMEOUT, CONNECTION, TRUNCATED, LEFT, STREAM_CUT, EXPIRED, OTHER, TOOL_ERROR})


def provider_name(section: str, preset: str, dialect: str) -> str:
    """The well-known name of a provider. The scripted one speaks as the one whose format it is asked in."""
    if preset == "scripted":
        return "anthropic" if dialect.startswith("anthropic") else "openai"
    return PROVIDERS.get(preset) or preset or section


def operation_name(operation: str, dialect: str) -> str | None:
    """The conventions' word for an operation; None: no operation of a model."""
    found = OPERATIONS.get(operation)
    return "generate_content" if found == "chat" and dialect == "gemini" else found


def error_type(outcome: str, reason: str, status: int | None, streamed: bool) -> str | None:
    """The closed word for why a call failed; None: it did not. streamed: a first byte of the answer had come."""
    if outcome == "ok":
        return None
    if outcome == "refused":
        return _code(reason)
    if outcome == "client_left":
        return LEFT
    if outcome == "cut":
        return _code(reason) if reason == "run_killed" else STREAM_CUT
    return _failure(reason, status, streamed)


def _code(reason: str) -> str:
    word = "budget_exceeded" if reason == "insufficient_quota" else reason
    return word if word in CODES or word == EXPIRED else OTHER


def _failure(reason: str, status: int | None, streamed: bool) -> str:
    if status is not None and 400 <= status <= 599:
        return str(status)
    if reason == "upstream_timeout":
        return TIMEOUT
    if reason.startswith("upstream_"):
        return TRUNCATED if streamed or status is not None else CONNECTION
    return OTHER


def refusal_event(code: str) -> str:
    """The event that tells of a refusal."""
    for start, event in REFUSAL_EVENTS.items():
        if code.startswith(start):
            return event
    return REFUSED
