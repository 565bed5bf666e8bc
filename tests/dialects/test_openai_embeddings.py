"""Embeddings cost input only."""

from __future__ import annotations

import json

import pytest

from gateway.core.errors import Undecodable
from gateway.core.types import Call, Edits, Inbound, Labels, Provider, Refusal
from gateway.dialects.openai_embeddings import OpenAIEmbeddings

OPENAI = Provider("openai", "openai", "https://x", ("openai-embeddings",))
PATH = "/v1/embeddings"


def decode(body: bytes, path: str = PATH, method: str = "POST") -> Call:
    """The call that this body makes."""
    return OpenAIEmbeddings().decode(Inbound(method, None, path, path, "", (), body, Labels(), "t", None, 0.0), OPENAI)


def test_there_is_no_output():
    """Bytes bound the input, nothing is clamped, the body stays the same object."""
    body = b'{"model":"text-embedding-3-small","input":["a","b"]}'
    call = decode(body)
    assert (True, len(body), "embeddings", "metered") == (
        call.size.embeds,
        call.size.text_bytes,
        call.operation,
        call.kind,
    )
    assert body is OpenAIEmbeddings().rewrite(call, body, Edits(5, True, 3, True, "other"))


def test_paths():
    """By their end; Azure's path names the model."""
    assert OpenAIEmbeddings().matches("POST", PATH) and not OpenAIEmbeddings().matches("POST", "/v1/embeddingsx")
    assert "d" == decode(b'{"input":"x"}', "/openai/deployments/d/embeddings").model
    assert "free" == decode(b"", method="GET").kind
    with pytest.raises(Undecodable, match="`model`"):
        decode(b'{"input":"x"}')


@pytest.mark.parametrize("usage", [{"prompt_tokens": 5, "total_tokens": 5}, {"total_tokens": 5}])
def test_a_total_alone_means_input(usage):
    """design.md section 2: Voyage tells nothing else."""
    raw = json.dumps({"object": "list", "data": [], "model": "m", "usage": usage}).encode()
    reply = OpenAIEmbeddings().whole(decode(b'{"model":"m","input":"x"}'), 200, raw)
    assert reply.usage is not None
    assert (5, None, True, ()) == (
        reply.usage.input_tokens,
        reply.usage.output_tokens,
        reply.usage_complete,
        reply.links,
    )


def test_other_sockets():
    """A stream passes as it is; refusals are OpenAI's."""
    dialect = OpenAIEmbeddings()
    assert b"data: {}\n\n" == dialect.reader(decode(b'{"model":"m"}'), False).feed(b"data: {}\n\n")
    assert b'"code":"x"' in dialect.refuse(Refusal(402, "x", "m"))
    assert dialect.own_error(b'{"error":{}}')
