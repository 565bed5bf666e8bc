"""The parts of a Responses request."""

from __future__ import annotations

import json

import pytest

from gateway.core.errors import Undecodable
from gateway.core.types import Hosted
from gateway.core.wire import responses_request as request
from gateway.core.wire.body import read_object, splice
from gateway.core.wire.history import answer_hash


def _read(**item):
    return request.read_item(json.dumps(item).encode())


def test_an_answer_hashes_alike_in_all_its_spellings():
    """A client quotes an answer as the item that came, or as plain text."""
    came = _read(
        type="message",
        id="msg_1",
        role="assistant",
        status="completed",
        content=[{"type": "output_text", "text": "4", "annotations": []}, {"type": "refusal", "refusal": "!"}],
    )
    assert answer_hash("4!", ()) == came.hash == _read(role="assistant", content="4!").hash
    assert came.answer


def test_calls_and_results_are_linked_by_their_id():
    """R-100: a call hashes by its call_id, whatever else a client keeps of it; its result carries the same id."""
    call = _read(type="function_call", id="fc_1", call_id="call_1", name="add", arguments="{}", status="completed")
    assert (answer_hash("", ["call_1"]), True, ("call_1",)) == (call.hash, call.answer, call.ids)
    assert call.hash == _read(type="function_call", call_id="call_1", name="add", arguments="{ }").hash
    done = _read(type="function_call_output", call_id="call_1", output="Error: no")
    (result,) = done.results
    assert ("call_1", True, 9) == (result.tool_call_id, result.is_error, result.size_bytes)
    assert (
        done.hash
        == _read(type="function_call_output", id="x", call_id="call_1", output="Error: no", status="completed").hash
    )


@pytest.mark.parametrize(
    "kind", ["reasoning", "web_search_call", "mcp_call", "item_reference", "compaction", "tool_search_call"]
)
def test_what_a_client_may_drop_is_no_link(kind):
    """Thoughts, the provider's own tool calls and references do not change the chain."""
    assert (0, False) == ((item := _read(type=kind, id="x_1")).hash, item.answer)
    assert (kind == "item_reference") == item.unseen


def test_media_is_taken_out_of_the_text():
    """Base64 is no text; files elsewhere and audio may fill the window; images have a greatest size."""
    url = "data:image/png;base64," + "A" * 40
    found = _read(
        role="user", content=[{"type": "input_image", "image_url": url}, {"type": "input_image", "file_id": "f"}]
    )
    assert (2, 40, False, False) == (found.images, found.media_bytes, found.media, found.unseen)
    inside = _read(type="function_call_output", call_id="c", output=[{"type": "input_file", "file_data": url}])
    assert (True, 40, False) == (inside.media, inside.media_bytes, inside.unseen)
    for part in ({"type": "input_file", "file_id": "f"}, {"type": "input_file", "file_url": "https://x"}):
        assert _read(role="user", content=[part]).unseen


def test_tools_are_told_apart_by_who_runs_them():
    """Functions by name, also in namespaces; typed tools of the client by kind; the provider's own as hosted."""
    tools = [
        {"type": "function", "name": "add"},
        {"type": "custom", "name": "sql"},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "inner"}]},
        {"type": "computer_use_preview"},
        {"type": "shell", "environment": {"type": "local"}},
        {"type": "shell", "environment": {"type": "container_auto"}},
        {"type": "web_search_preview_2025_03_11"},
        {"type": "mcp", "server_label": "x"},
        {"type": "tool_search", "execution": "client"},
        {"type": "oracle"},
    ]
    offer = request.read_tools(json.dumps(tools).encode())
    assert ("add", "sql", "inner", "computer_use_preview", "shell", "tool_search_call") == offer.names
    assert (
        Hosted("shell", 3, True),
        Hosted("web_search", 3, True),
        Hosted("mcp", None, False),
        Hosted("oracle", None, False),
    ) == request.hosted_of(offer, 3)
    added = _read(type="additional_tools", role="developer", tools=[{"type": "function", "name": "late"}])
    assert (("late",), 0) == (added.names, added.hash)


def test_what_works_beyond_the_limits_counts_as_hosted():
    """R-086: the pro mode reads its input several times, and compaction works on its own: no limit bounds them."""
    body = b'{"reasoning":{"mode":"pro"},"context_management":[{"type":"compaction"}]}'
    assert ["reasoning_pro", "compaction"] == [tool.kind for tool in request.beside(read_object(body))]
    assert [] == request.beside(read_object(b'{"reasoning":{"effort":"low","mode":"standard"}}'))


def test_what_a_request_goes_on_from():
    """A former response, or a conversation as text or object."""
    for body, previous in (
        ({"previous_response_id": "resp_1"}, "resp_1"),
        ({"conversation": "conv_1"}, "conv_1"),
        ({"conversation": {"id": "conv_2"}}, "conv_2"),
        ({}, None),
    ):
        assert previous == request.previous_of(read_object(json.dumps(body).encode()))


def test_only_a_uuid_is_a_session():
    """Many apps send a constant cache key."""
    key = "0198c0de-0000-7000-8000-000000000001"
    assert key == request.session_of(read_object(json.dumps({"prompt_cache_key": key}).encode()))
    assert None is request.session_of(read_object(b'{"prompt_cache_key":"my-app"}'))


def test_the_limit_is_lowered_or_added():
    """The API takes no limit below 16; what can't be granted is refused."""
    for raw, expected in (
        (b'{"max_output_tokens": 500 }', b'{"max_output_tokens": 99 }'),
        (b'{"max_output_tokens":null}', b'{"max_output_tokens":99}'),
        (b'{"a":1}', b'{"a":1,"max_output_tokens":99}'),
        (b'{"max_output_tokens":50}', b'{"max_output_tokens":50}'),
    ):
        assert expected == splice(raw, request.limited(read_object(raw), 99))
    with pytest.raises(Undecodable) as refused:
        request.limited(read_object(b"{}"), 15)
    assert 402 == refused.value.status


def test_two_fields_can_be_added_at_once():
    """A limit and a cap are added side by side, also into an empty object."""
    fields = read_object(b"{}")
    edits = request.limited(fields, 20)
    assert b'{"max_output_tokens":20,"max_tool_calls":2}' == splice(b"{}", edits + request.capped(fields, 2, more=True))
