"""Provider presets: where a provider lives, what it speaks, how it differs on the wire, under which names it is priced.

Invariant: pure data; each quirk follows wire-formats.md sections 1, 2, 4. An origin has no /v1: that is in the client's
path. An empty origin means that the section must name its own. What never enters: credentials, behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gateway.core.types import Provider, Quirks

_CHAT = ("openai-chat",)
_CHAT_AND_MORE = ("openai-chat", "openai-completions", "openai-embeddings")
_OPENAI = ("openai-chat", "openai-responses", "openai-embeddings", "openai-completions")
_MANY = ("openai-chat", "openai-responses", "anthropic-messages", "openai-completions", "openai-embeddings")


def _preset(
    name: str, origin: str, dialects: tuple[str, ...], prices: tuple[str, ...], quirks: Quirks, local: bool = False
) -> tuple[str, Provider]:
    return name, Provider(
        name=name, preset=name, origin=origin, dialects=dialects, price_ids=prices, quirks=quirks, local=local
    )


PRESETS: Mapping[str, Provider] = MappingProxyType(
    dict(
        (
            # o-series models refuse max_tokens; usage comes in a stream only when asked for.
            _preset(
                "openai",
                "https://api.openai.com",
                _OPENAI,
                ("openai",),
                Quirks(usage_option=True, output_field="max_completion_tokens", openai_tokenizer=True),
            ),
            # Only its own format: its OpenAI-compatible endpoint would make it the default provider of openai-chat.
            _preset(
                "anthropic",
                "https://api.anthropic.com",
                ("anthropic-messages",),
                ("anthropic",),
                Quirks(auth="x-api-key"),
            ),
            # The OpenAI-compatible endpoint tells usage in a stream only when asked for, as OpenAI does.
            _preset(
                "gemini",
                "https://generativelanguage.googleapis.com",
                ("gemini", "openai-chat", "openai-embeddings"),
                ("google",),
                Quirks(usage_option=True, output_field="max_tokens"),
            ),
            _preset(
                "vertex",
                "https://aiplatform.googleapis.com",
                ("gemini", "openai-chat"),
                ("google",),
                Quirks(usage_option=True, output_field="max_tokens"),
            ),
            # The host names the region, so the section must write it.
            _preset(
                "bedrock",
                "",
                ("bedrock-converse", "openai-chat", "anthropic-messages"),
                ("aws",),
                Quirks(usage_option=True, output_field="max_completion_tokens"),
            ),
            # The host names the resource; the path names a deployment, which is an alias and has no price of its own.
            _preset(
                "azure",
                "",
                _OPENAI,
                ("azure",),
                Quirks(
                    usage_option=True,
                    output_field="max_completion_tokens",
                    auth="api-key",
                    openai_tokenizer=True,
                    path_model=True,
                ),
            ),
            # x_groq.usage is in the last chunk whatever was asked.
            _preset(
                "groq",
                "https://api.groq.com/openai",
                ("openai-chat", "openai-responses"),
                ("groq",),
                Quirks(output_field="max_completion_tokens"),
            ),
            # 422 for stream_options and for max_completion_tokens; usage is always in the last chunk.
            _preset(
                "mistral",
                "https://api.mistral.ai",
                ("openai-chat", "openai-embeddings"),
                ("mistral",),
                Quirks(output_field="max_tokens"),
            ),
            _preset(
                "deepseek",
                "https://api.deepseek.com",
                ("openai-chat", "anthropic-messages"),
                ("deepseek",),
                Quirks(usage_option=True, output_field="max_tokens"),
            ),
            # Usage and cost are always in the last chunk: include_usage has no effect there.
            _preset(
                "openrouter",
                "https://openrouter.ai/api",
                ("openai-chat", "openai-responses", "anthropic-messages", "openai-completions"),
                ("openrouter",),
                Quirks(output_field="max_tokens", states_cost=True),
            ),
            # Usage is always in the final chunk; reasoning tokens come on top of completion_tokens.
            _preset(
                "xai",
                "https://api.x.ai",
                ("openai-chat", "openai-responses", "anthropic-messages"),
                ("x-ai",),
                Quirks(output_field="max_completion_tokens", states_cost=True, reasoning_outside=True),
            ),
            _preset(
                "together",
                "https://api.together.xyz",
                _CHAT_AND_MORE,
                ("together",),
                Quirks(usage_option=True, output_field="max_tokens"),
            ),
            # Cohere's OpenAI-compatible endpoint; its own format is not among the dialects.
            _preset(
                "cohere",
                "https://api.cohere.ai/compatibility",
                ("openai-chat", "openai-embeddings"),
                ("cohere",),
                Quirks(usage_option=True, output_field="max_tokens"),
            ),
            # Usage is in every chunk; stream_options is not among its documented parameters.
            _preset(
                "perplexity", "https://api.perplexity.ai", _CHAT, ("perplexity",), Quirks(output_field="max_tokens")
            ),
            _preset(
                "cerebras",
                "https://api.cerebras.ai",
                ("openai-chat", "openai-completions"),
                ("cerebras",),
                Quirks(usage_option=True, output_field="max_completion_tokens"),
            ),
            _preset(
                "fireworks",
                "https://api.fireworks.ai/inference",
                _CHAT_AND_MORE,
                ("fireworks",),
                Quirks(usage_option=True, output_field="max_tokens"),
            ),
            # What runs at home has no list price: the price id `local` is in no list, so only an override prices it.
            _preset(
                "ollama",
                "http://localhost:11434",
                _MANY,
                ("local",),
                Quirks(usage_option=True, output_field="max_tokens"),
                local=True,
            ),
            _preset(
                "vllm",
                "http://localhost:8000",
                _MANY,
                ("local",),
                Quirks(usage_option=True, output_field="max_tokens"),
                local=True,
            ),
            # The provider of the demo and the tests: real models' names and prices, an address that the caller knows.
            _preset(
                "scripted",
                "",
                (*_OPENAI, "anthropic-messages"),
                ("openai", "anthropic"),
                Quirks(usage_option=True, output_field="max_completion_tokens", openai_tokenizer=True),
            ),
        )
    )
)
