"""The greatest output and the context window of models: a dated table, one source a row (genai-prices has no outputs).

Invariant: a number here is exact as far as its source says, or it is None. An output that is too high makes providers
answer 400; one that is too low makes the bound of a call without a limit unsound, since then the body stays as it is.
With None the caller sets a limit of its own. What never enters: prices, guesses, a host's own limit for open models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

CHECKED = "2026-11-21"

OPENAI = "https://developers.openai.com/api/docs/models"
OPENAI_OLD = "https://platform.openai.com/docs/models"
CLAUDE = "https://platform.claude.com/docs/en/models"
CLAUDE_OLD = "https://platform.claude.com/docs/en/about-claude/models/overview"
GEMINI = "https://ai.google.dev/gemini-api/docs/models"
MISTRAL = "https://docs.mistral.ai/getting-started/models"  # names no output limit of its own: the window is shared
DEEPSEEK = "https://api-docs.deepseek.com/quick_start/pricing"
GROQ = "https://console.groq.com/docs/models"
XAI = "https://docs.x.ai/developers/models"  # names no output limit of its own: the window is shared
COHERE = "https://docs.cohere.com/docs/models"


class Row(Struct, frozen=True):
    """One model, under its name without date or version."""

    name: str
    max_output: int | None
    context: int | None
    source: str
    checked: str = CHECKED


# fmt: off
TABLE: tuple[tuple[str, int | None, int | None, str], ...] = (
    # --- OpenAI
    ("gpt-3.5-turbo", 4096, 16_385, OPENAI_OLD), ("gpt-3.5-turbo-16k", None, 16_385, OPENAI_OLD),
    ("gpt-3.5-turbo-instruct", 4096, 4096, OPENAI_OLD),
    ("davinci-002", 16_384, 16_384, OPENAI_OLD), ("babbage-002", 16_384, 16_384, OPENAI_OLD),
    ("gpt-4", 8192, 8192, OPENAI_OLD), ("gpt-4-32k", None, 32_768, OPENAI_OLD),
    ("gpt-4-turbo", 4096, 128_000, OPENAI_OLD), ("gpt-4-turbo-preview", 4096, 128_000, OPENAI_OLD),
    ("gpt-4-1106-preview", 4096, 128_000, OPENAI_OLD), ("gpt-4-0125-preview", 4096, 128_000, OPENAI_OLD),
    ("gpt-4-vision-preview", 4096, 128_000, OPENAI_OLD), ("gpt-4-1106-vision-preview", 4096, 128_000, OPENAI_OLD),
    ("gpt-4o", 16_384, 128_000, OPENAI), ("gpt-4o-2024-05-13", 4096, 128_000, OPENAI),
    ("gpt-4o-mini", 16_384, 128_000, OPENAI), ("chatgpt-4o-latest", 16_384, 128_000, OPENAI),
    ("gpt-4o-audio-preview", 16_384, 128_000, OPENAI), ("gpt-4o-mini-audio-preview", 16_384, 128_000, OPENAI),
    ("gpt-4o-search-preview", 16_384, 128_000, OPENAI), ("gpt-4o-mini-search-preview", 16_384, 128_000, OPENAI),
    ("gpt-audio", 16_384, 128_000, OPENAI), ("gpt-audio-mini", 16_384, 128_000, OPENAI),
    ("gpt-4.1", 32_768, 1_047_576, OPENAI), ("gpt-4.1-mini", 32_768, 1_047_576, OPENAI),
    ("gpt-4.1-nano", 32_768, 1_047_576, OPENAI), ("gpt-4.5-preview", 16_384, 128_000, OPENAI_OLD),
    ("o1", 100_000, 200_000, OPENAI), ("o1-pro", 100_000, 200_000, OPENAI),
    ("o1-mini", 65_536, 128_000, OPENAI_OLD), ("o1-preview", 32_768, 128_000, OPENAI_OLD),
    ("o3", 100_000, 200_000, OPENAI), ("o3-pro", 100_000, 200_000, OPENAI), ("o3-mini", 100_000, 200_000, OPENAI),
    ("o4-mini", 100_000, 200_000, OPENAI), ("codex-mini", 100_000, 200_000, OPENAI_OLD),
    ("o3-deep-research", 100_000, 200_000, OPENAI), ("o4-mini-deep-research", 100_000, 200_000, OPENAI),
    ("computer-use-preview", 1024, 8192, OPENAI_OLD),
    ("gpt-5", 128_000, 400_000, OPENAI), ("gpt-5-mini", 128_000, 400_000, OPENAI),
    ("gpt-5-nano", 128_000, 400_000, OPENAI), ("gpt-5-codex", 128_000, 400_000, OPENAI),
    ("gpt-5-pro", 272_000, 400_000, OPENAI), ("gpt-5-chat", 16_384, 128_000, OPENAI),
    ("gpt-5-search-api", None, 400_000, OPENAI),
    ("gpt-5.1", 128_000, 400_000, OPENAI), ("gpt-5.1-chat", 16_384, 128_000, OPENAI),
    ("gpt-5.1-codex", 128_000, 400_000, OPENAI), ("gpt-5.1-codex-max", 128_000, 400_000, OPENAI),
    ("gpt-5.1-codex-mini", 128_000, 400_000, OPENAI),
    ("gpt-5.2", 128_000, 400_000, OPENAI), ("gpt-5.2-pro", 128_000, 400_000, OPENAI),
    ("gpt-5.2-chat", 16_384, 128_000, OPENAI), ("gpt-5.2-codex", 128_000, 400_000, OPENAI),
    ("gpt-5.3-codex", 128_000, 400_000, OPENAI), ("gpt-5.3-chat", 16_384, 128_000, OPENAI),
    ("gpt-5.4", 128_000, 1_050_000, OPENAI), ("gpt-5.4-pro", 128_000, 1_050_000, OPENAI),
    ("gpt-5.4-mini", 128_000, 400_000, OPENAI), ("gpt-5.4-nano", 128_000, 400_000, OPENAI),
    ("gpt-5.5", 128_000, 1_050_000, OPENAI), ("gpt-5.5-pro", 128_000, 1_050_000, OPENAI),
    ("gpt-5.6", 128_000, 1_050_000, OPENAI), ("gpt-5.6-sol", 128_000, 1_050_000, OPENAI),
    ("gpt-5.6-terra", 128_000, 1_050_000, OPENAI), ("gpt-5.6-luna", 128_000, 1_050_000, OPENAI),
    ("gpt-6-astra", 128_000, 1_050_000, OPENAI), ("gpt-6-sol", 128_000, 1_050_000, OPENAI),
    ("gpt-6-luna", 128_000, 1_050_000, OPENAI),
    ("gpt-6.1-sol", 128_000, 1_050_000, OPENAI), ("gpt-6.1-terra", 128_000, 1_050_000, OPENAI),
    ("text-embedding-ada-002", 0, 8192, OPENAI), ("text-embedding-3-small", 0, 8192, OPENAI),
    ("text-embedding-3-large", 0, 8192, OPENAI),
    # --- Anthropic (max_tokens is required there; these serve OpenAI-compatible endpoints). Windows with the 1M beta.
    ("claude-2", 4096, 200_000, CLAUDE_OLD), ("claude-2.1", 4096, 200_000, CLAUDE_OLD),
    ("claude-instant-1.2", 4096, 100_000, CLAUDE_OLD),
    ("claude-3-haiku", 4096, 200_000, CLAUDE_OLD), ("claude-3-sonnet", 4096, 200_000, CLAUDE_OLD),
    ("claude-3-opus", 4096, 200_000, CLAUDE_OLD),
    ("claude-3-5-sonnet", 8192, 200_000, CLAUDE_OLD), ("claude-3-5-haiku", 8192, 200_000, CLAUDE_OLD),
    ("claude-3-7-sonnet", 64_000, 200_000, CLAUDE_OLD),
    ("claude-sonnet-4", 64_000, 1_000_000, CLAUDE_OLD), ("claude-sonnet-4-0", 64_000, 1_000_000, CLAUDE_OLD),
    ("claude-sonnet-4-5", 64_000, 1_000_000, CLAUDE_OLD), ("claude-sonnet-4-6", 64_000, 1_000_000, CLAUDE),
    ("claude-opus-4", 32_000, 200_000, CLAUDE_OLD), ("claude-opus-4-0", 32_000, 200_000, CLAUDE_OLD),
    ("claude-opus-4-1", 32_000, 200_000, CLAUDE_OLD), ("claude-opus-4-5", 64_000, 200_000, CLAUDE_OLD),
    ("claude-opus-4-6", 128_000, 1_000_000, CLAUDE), ("claude-opus-4-7", 128_000, 1_000_000, CLAUDE),
    ("claude-opus-4-8", 128_000, 1_000_000, CLAUDE), ("claude-haiku-4-5", 64_000, 200_000, CLAUDE),
    ("claude-opus-5", 128_000, 1_000_000, CLAUDE), ("claude-opus-5-5", 128_000, 1_000_000, CLAUDE),
    ("claude-sonnet-5", 128_000, 1_000_000, CLAUDE), ("claude-sonnet-5-5", 128_000, 1_000_000, CLAUDE),
    ("claude-haiku-5-5", 128_000, 1_000_000, CLAUDE + "/haiku-5-5/overview"),
    ("claude-fable-5", 128_000, 1_000_000, CLAUDE), ("claude-fable-5-1", 128_000, 1_000_000, CLAUDE),
    ("claude-mythos-5", 128_000, 1_000_000, CLAUDE + "/mythos-5/overview"),
    # No page of their own was found: the window is the price list's, the output stays unknown.
    ("claude-fable-5-2", None, 1_000_000, CLAUDE), ("claude-mythos-5-2", None, 1_000_000, CLAUDE),
    # --- Google
    ("gemini-1.5-pro", 8192, 2_097_152, GEMINI), ("gemini-1.5-flash", 8192, 1_048_576, GEMINI),
    ("gemini-1.5-flash-8b", 8192, 1_048_576, GEMINI),
    ("gemini-2.0-flash", 8192, 1_048_576, GEMINI), ("gemini-2.0-flash-lite", 8192, 1_048_576, GEMINI),
    ("gemini-2.5-pro", 65_536, 1_048_576, GEMINI), ("gemini-2.5-flash", 65_536, 1_048_576, GEMINI),
    ("gemini-2.5-flash-lite", 65_536, 1_048_576, GEMINI),
    ("gemini-3-pro", 65_536, 1_048_576, GEMINI), ("gemini-3-flash", 65_536, 1_048_576, GEMINI),
    ("gemini-3.1-pro", 65_536, 1_048_576, GEMINI), ("gemini-3.1-flash-lite", 65_536, 1_048_576, GEMINI),
    ("gemini-3.5-flash", 65_536, 1_048_576, GEMINI), ("gemini-3.8-flash", 65_536, 1_048_576, GEMINI),
    ("gemini-3.6-flash", None, 1_048_576, GEMINI), ("gemini-3.7-flash", None, 1_048_576, GEMINI),
    ("gemini-3.5-flash-lite", None, 1_048_576, GEMINI),
    # 65,536 streamed, 32,768 not, more by continuation: no one number is right.
    ("gemini-4-argon", None, 1_048_576, GEMINI),
    # --- Mistral
    ("mistral-large-4", None, 1_048_576, MISTRAL), ("mistral-large-2512", None, 262_144, MISTRAL),
    ("mistral-medium-3.5", None, 262_144, MISTRAL), ("mistral-small-2603", None, 262_144, MISTRAL),
    ("mistral-large", None, 1_048_576, MISTRAL), ("mistral-medium", None, 262_144, MISTRAL),
    ("mistral-small", None, 262_144, MISTRAL), ("mistral-nemo", None, 131_072, MISTRAL),
    ("open-mistral-nemo", None, 131_072, MISTRAL), ("pixtral-large", None, 131_072, MISTRAL),
    ("codestral", None, 262_144, MISTRAL), ("ministral-8b", None, 262_144, MISTRAL),
    ("ministral-3b", None, 131_072, MISTRAL), ("magistral-medium", None, 131_072, MISTRAL),
    ("magistral-small", None, 131_072, MISTRAL), ("devstral-2512", None, 262_144, MISTRAL),
    # --- DeepSeek (deepseek-chat and deepseek-reasoner are names of changing models: no output limit is right for long)
    ("deepseek-v4-flash", 384_000, 1_048_576, DEEPSEEK), ("deepseek-v4-pro", 384_000, 1_048_576, DEEPSEEK),
    ("deepseek-chat", None, 1_048_576, DEEPSEEK), ("deepseek-reasoner", None, 1_048_576, DEEPSEEK),
    ("deepseek-flash", None, 1_048_576, DEEPSEEK),
    # --- Groq (its own names only: the same open model has other limits elsewhere)
    ("llama-3.3-70b-versatile", 32_768, 131_072, GROQ), ("llama-3.1-8b-instant", 131_072, 131_072, GROQ),
    ("gemma2-9b-it", 8192, 8192, GROQ), ("llama3-70b-8192", 8192, 8192, GROQ), ("llama3-8b-8192", 8192, 8192, GROQ),
    # --- xAI
    ("grok-3", None, 131_072, XAI), ("grok-3-mini", None, 131_072, XAI), ("grok-4", None, 256_000, XAI),
    ("grok-4-fast", None, 2_000_000, XAI), ("grok-4-fast-reasoning", None, 2_000_000, XAI),
    ("grok-4-fast-non-reasoning", None, 2_000_000, XAI), ("grok-4-1-fast-reasoning", None, 2_000_000, XAI),
    ("grok-4-1-fast-non-reasoning", None, 2_000_000, XAI), ("grok-4.20", None, 1_000_000, XAI),
    ("grok-4.3", None, 1_000_000, XAI), ("grok-4.5", None, 500_000, XAI), ("grok-4.6", None, 500_000, XAI),
    ("grok-4.7", None, 500_000, XAI), ("grok-code-fast-1", None, 256_000, XAI),
    # --- Cohere
    ("command-a-03-2025", 8192, 256_000, COHERE), ("command-r-08-2024", 4096, 128_000, COHERE),
    ("command-r-plus-08-2024", 4096, 128_000, COHERE), ("command-r7b-12-2024", 4096, 128_000, COHERE),
)

# Most tokens that one image can be (wire-formats.md section 9; OpenAI guides/images-vision, Anthropic
# build-with-claude/vision, Gemini docs/tokens). First prefix that fits; what is missing may fill the window.
IMAGES: tuple[tuple[str, int], ...] = (
    ("gpt-4o-mini", 48_169),  # 2833 + 8 tiles * 5667
    ("gpt-4o", 1445), ("chatgpt-4o", 1445), ("gpt-4-", 1445), ("gpt-4.5", 1445),  # 85 + 8 tiles * 170
    ("gpt-4.1-mini", 2489), ("gpt-4.1-nano", 3779),  # 1536 patches * 1.62, * 2.46
    ("gpt-4.1", 1445), ("o4-mini", 2642), ("o1", 1275), ("o3", 1275), ("computer-use", 1097),
    ("gpt-5.", 25_000), ("gpt-6", 25_000),  # `detail: original` from gpt-5.4 on: 10,000 patches, at most * 2.46
    ("gpt-5-mini", 3779), ("gpt-5-nano", 3779), ("gpt-5", 1190),  # 70 + 8 tiles * 140
    # About 1,600 up to Opus 4.6; 2576 px (3.75 MP / 750) from Opus 4.7 on
    ("claude-3", 1800), ("claude-haiku-4", 1800), ("claude-sonnet-4", 1800),
    ("claude-opus-4-7", 5100), ("claude-opus-4-8", 5100), ("claude-opus-4", 1800), ("claude-", 5100),
    ("gemini-", 4200),  # 2.x: 16 tiles of 258; 3.x: at most 2240 at ultra high resolution
)
# fmt: on

# What may follow a row's name and still be the same model: a date, a version, a channel (gpt-4o-2024-08-06,
# claude-sonnet-4-5-20250929, @20250514, -v1:0, -001, -latest, -preview-05-20, :free).
SUFFIX = re.compile(
    r"(?:[-@](?:20\d\d-?\d\d-?\d\d|\d{4}|00\d|latest|preview|exp|v\d+)(?:[-:.]\d{1,4})*)*(?::(?:free|\d+))?"
)
# What may stand before it: a cloud's region and vendor, an aggregator's vendor.
REGIONS = frozenset({"us", "eu", "apac", "global", "jp", "au", "us-gov"})
VENDORS = frozenset({"anthropic", "openai", "meta", "mistral", "cohere", "deepseek", "google"})
LONGEST_NAME = 256


def rows() -> tuple[Row, ...]:
    """The whole table, for `meterbox prices` and the tests."""
    return tuple(Row(*row) for row in TABLE)


def plain_name(model: str) -> str:
    """A model's bare name: lower case, without vendor, region or fine-tune."""
    name = model[:LONGEST_NAME].lower()
    if name.startswith("ft:"):  # ft:gpt-4o-mini-2024-07-18:org:name:id
        name = name.split(":")[1]
    name = name.rsplit("/", 1)[-1]
    parts = name.split(".")
    while len(parts) > 1 and (parts[0] in REGIONS or parts[0] in VENDORS):
        parts.pop(0)
    name = ".".join(parts)
    # Aggregators write claude-sonnet-4.5 for claude-sonnet-4-5.
    return name.replace(".", "-") if name.startswith("claude-") else name


INDEX: Mapping[str, tuple[int | None, int | None]] = MappingProxyType(
    {plain_name(name): (max_output, context) for name, max_output, context, _ in TABLE}
)


def _row(model: str) -> tuple[int | None, int | None]:
    """The row with the longest name that the model's name begins with, if only a date or version follows."""
    name = plain_name(model)
    if name in INDEX:
        return INDEX[name]
    for end in range(len(name) - 1, 0, -1):
        if name[end] in "-@:" and name[:end] in INDEX and SUFFIX.fullmatch(name, end):
            return INDEX[name[:end]]
    return None, None


def greatest_output(model: str) -> int | None:
    """Tokens that the model writes at most when nobody limits it; None: unknown, so a limit has to be set."""
    return _row(model)[0]


def context_of(model: str) -> int | None:
    """The context window in tokens; None: unknown."""
    return _row(model)[1]


def greatest_image(model: str) -> int | None:
    """Tokens that one image can be at most; None: unknown."""
    name = plain_name(model)
    return next((tokens for prefix, tokens in IMAGES if name.startswith(prefix)), None)
