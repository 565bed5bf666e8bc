"""core/route.py: a target has one reading or none, and goes where it says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Undecodable
from gateway.core.route import Routes, Target, take_apart, take_key
from gateway.core.types import Provider, Refusal

SECTIONS = {"openai", "anthropic"}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v1/messages", Target(None, None, None, "/v1/messages", "/v1/messages", "")),
        ("/openai/v1/x?a=%20&b", Target(None, None, "openai", "/v1/x", "/v1/x", "a=%20&b")),
        ("/run/r-1/v1/x", Target("r-1", None, None, "/v1/x", "/v1/x", "")),
        ("/key/mbx_a.b/v1/x", Target(None, "mbx_a.b", None, "/v1/x", "/v1/x", "")),
        ("/run/r/key/k/openai/v1/x", Target("r", "k", "openai", "/v1/x", "/v1/x", "")),
        ("/run/run/key/key/openai/openai", Target("run", "key", "openai", "/openai", "/openai", "")),
        ("/%72un/r%3A1/%6fpenai/v1/x", Target("r:1", None, "openai", "/v1/x", "/v1/x", "")),
        ("//openai///v1//x/", Target(None, None, "openai", "/v1/x", "/v1/x", "")),
        ("/v1/caf%C3%a9/%7e~", Target(None, None, None, "/v1/caf%C3%a9/%7e~", "/v1/café/~~", "")),
        ("/v1/%252e%252e/x", Target(None, None, None, "/v1/%252e%252e/x", "/v1/%2e%2e/x", "")),
        ("/v1/a..b/.hidden/...", Target(None, None, None, "/v1/a..b/.hidden/...", "/v1/a..b/.hidden/...", "")),
        ("/v1/x?", Target(None, None, None, "/v1/x", "/v1/x", "")),
        ("/v1/x?a?b/../%2e", Target(None, None, None, "/v1/x", "/v1/x", "a?b/../%2e")),
        ("/", Target(None, None, None, "/", "/", "")),
        ("/run/r", Target("r", None, None, "/", "/", "")),
        ("/run", Target(None, None, None, "/run", "/run", "")),
        ("/key/k/run/r/v1/x", Target(None, "k", None, "/run/r/v1/x", "/run/r/v1/x", "")),
    ],
)
def test_a_target_is_taken_apart_by_its_decoded_segments_and_keeps_their_spelling(
    target: str, expected: Target
) -> None:
    """http.md section 2: matched after one decoding, empty segments dropped, forwarded as spelled."""
    assert expected == take_apart(target, SECTIONS)


@pytest.mark.parametrize(
    "target",
    [
        "http://evil.example/v1/x",
        "*",
        "",
        "v1/x",
        "evil.example:443",
        "/v1/../x",
        "/v1/./x",
        "/..",
        "/v1/%2e%2e/x",
        "/v1/.%2E/x",
        "/v1/%2e",
        "/v1/a%2fb",
        "/v1/a%2Fb",
        "/v1/a%5cb",
        "/v1/a\\b",
        "/v1/%00",
        "/v1/%0d%0ax",
        "/v1/%7f",
        "/v1/%c2%85",
        "/v1/%zz",
        "/v1/%",
        "/v1/%4",
        "/v1/%+1",
        "/v1/%ff",
        "/v1/x y",
        "/v1/x\ty",
        "/v1/é",
        "/v1/x#y",
        "/v1/x?a=é",
        "/v1/x?a=\x01",
        "/run/a%20b/v1/x",
        "/run/" + "a" * 129 + "/v1/x",
        "/run/a~b/v1/x",
        "/openai/%2e%2e/anthropic/v1/x",
    ],
)
def test_a_target_with_a_second_reading_is_refused(target: str) -> None:
    """Dot segments, encoded slashes, backslashes, control characters, absolute forms: 400."""
    with pytest.raises(Undecodable) as refused:
        take_apart(target, SECTIONS)
    assert (400, "invalid_request") == (refused.value.status, refused.value.code)


@given(st.text(alphabet="/.%2eEfF5cC\\ab?run", max_size=40))
def test_whatever_is_let_through_holds_no_dot_segment_in_either_spelling(text: str) -> None:
    """What goes on, decoded once, is what was matched, and climbs nowhere."""
    try:
        target = take_apart("/" + text, SECTIONS)
    except Undecodable:
        return
    from urllib.parse import unquote

    assert target.match == unquote(target.path)
    assert not {".", ".."} & set(target.match.split("/")) and "\\" not in target.match
    assert len(target.path.split("/")) == len(target.match.split("/"))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ("", None)),
        ("a=1&key=AB%2dC&b=%20", ("a=1&b=%20", "AB-C")),
        ("key=x", ("", "x")),
        ("monkey=x", ("monkey=x", None)),
        ("a=key=", ("a=key=", None)),
    ],
)
def test_a_key_in_the_query_is_taken_out_and_the_rest_stays_as_spelled(
    query: str, expected: tuple[str, str | None]
) -> None:
    """Gemini's credential moves; nothing else of a query changes."""
    assert expected == take_key(query)


def test_two_keys_in_a_query_are_refused() -> None:
    """Which of them would count is anybody's guess."""
    with pytest.raises(Undecodable):
        take_key("key=a&key=b")


# ------------------------------------------------------------------ choosing


class Tongue:
    def __init__(self, name: str, *ends: str) -> None:
        self.name, self._ends = name, ends

    def matches(self, method: str, path: str) -> bool:
        return method in ("GET", "POST") and any(path.endswith(end) for end in self._ends)


def made(sections: dict[str, tuple[str, ...]], unmetered: str = "refuse") -> Routes:
    dialects: Any = [
        Tongue("anthropic-messages", "/messages", "/models"),
        Tongue("openai-chat", "/chat/completions", "/models"),
        Tongue("openai-responses", "/responses"),
    ]
    providers = {name: Provider(name, name, f"https://{name}.example", spoken) for name, spoken in sections.items()}
    return Routes(providers, dialects, unmetered)


BOTH: dict[str, tuple[str, ...]] = {
    "openai": ("openai-chat", "openai-responses"),
    "anthropic": ("anthropic-messages",),
    "xai": ("openai-chat", "anthropic-messages", "openai-responses"),
    "google": ("gemini",),
}


def chosen(routes: Routes, target: str, method: str = "POST", anthropic: bool = False) -> tuple[str, str | None] | str:
    found = routes.choose(take_apart(target, routes.sections), method, anthropic)
    if isinstance(found, Refusal):
        return f"{found.status} {found.code}"
    return found[0].name, found[1].name if found[1] is not None else None


@pytest.mark.parametrize(
    ("method", "target", "anthropic", "expected"),
    [
        ("POST", "/v1/chat/completions", False, ("openai", "openai-chat")),
        ("POST", "/v1/messages", False, ("anthropic", "anthropic-messages")),
        ("POST", "/v1/responses", True, ("openai", "openai-responses")),
        ("GET", "/v1/models", False, ("openai", "openai-chat")),
        ("HEAD", "/v1/models", False, ("openai", "openai-chat")),
        ("GET", "/v1/models", True, ("anthropic", "anthropic-messages")),
        ("POST", "/xai/v1/messages", False, ("xai", "anthropic-messages")),
        ("GET", "/xai/v1/models", True, ("xai", "anthropic-messages")),
        ("GET", "/xai/v1/models", False, ("xai", "openai-chat")),
        ("POST", "/xai/any/prefix/chat/completions", False, ("xai", "openai-chat")),
        ("POST", "/openai/v1/messages", False, "403 unmetered_path"),
        ("POST", "/openai/v1/images/generations", False, "403 unmetered_path"),
        ("GET", "/openai/v1/files", False, "403 unmetered_path"),
        ("DELETE", "/openai/v1/models", False, "403 unmetered_path"),
        ("OPTIONS", "/v1/chat/completions", False, "403 unmetered_path"),
        ("POST", "/google/v1beta/models/m:generateContent", False, "403 unmetered_path"),
        ("POST", "/v1beta/models/m:generateContent", False, "403 unmetered_path"),
        ("POST", "/v1/audio/speech", False, "403 unmetered_path"),
        ("POST", "/nope/v1/chat/completions", False, "404 not_found"),
        ("POST", "/chat/completions", False, "404 not_found"),
        ("GET", "/", False, "404 not_found"),
    ],
)
def test_the_section_or_else_the_paths_own_dialect_decides_who_serves(
    method: str, target: str, anthropic: bool, expected: object
) -> None:
    """http.md section 2; the first section that has a dialect is its default."""
    assert expected == chosen(made(BOTH), target, method, anthropic)


@pytest.mark.parametrize(
    ("target", "anthropic", "expected"),
    [
        ("/openai/v1/images/generations", False, ("openai", None)),
        ("/google/v1beta/models/m:generateContent", False, ("google", None)),
        ("/v1beta/models/m:generateContent", False, ("google", None)),
        ("/v1/images/generations", False, ("openai", None)),
        ("/v1/messages/batches", True, ("anthropic", None)),
        ("/v1/chat/completions", False, ("openai", "openai-chat")),
        ("/nope/v1/x", False, "404 not_found"),
    ],
)
def test_with_unmetered_allowed_what_nobody_understands_passes_as_it_is(
    target: str, anthropic: bool, expected: object
) -> None:
    """It passes without a dialect; what is understood is metered all the same."""
    assert expected == chosen(made(BOTH, "allow"), target, "POST", anthropic)


def test_what_has_no_default_is_refused_also_where_unmetered_is_allowed() -> None:
    """Nobody speaks it: there is no place to send it."""
    assert "403 unmetered_path" == chosen(made({"anthropic": ("anthropic-messages",)}, "allow"), "/v1beta/models/m:x")


class Glutton(Tongue):
    def matches(self, method: str, path: str) -> bool:
        return True


@pytest.mark.parametrize(
    ("method", "unmetered", "expected"),
    [
        ("DELETE", "refuse", ("openai", "openai-chat")),
        ("PUT", "refuse", "403 unmetered_path"),
        ("PATCH", "refuse", "403 unmetered_path"),
        ("OPTIONS", "refuse", "403 unmetered_path"),
        ("PATCH", "allow", ("openai", None)),
        ("TRACE", "allow", "400 invalid_request"),
        ("CONNECT", "allow", "400 invalid_request"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/x", "/openai/v1/x"])
def test_no_dialect_is_asked_about_a_method_that_nobody_meters(
    path: str, method: str, unmetered: str, expected: object
) -> None:
    """http.md section 2; TRACE would hand out the section's own key, CONNECT names a host."""
    dialects: Any = [Glutton("openai-chat")]
    providers = {"openai": Provider("openai", "openai", "https://openai.example", ("openai-chat",))}
    assert expected == chosen(Routes(providers, dialects, unmetered), path, method)


def test_the_first_section_of_a_dialect_is_its_default() -> None:
    """The order of the file decides."""
    routes = made({"one": ("openai-chat",), "two": ("openai-chat",)})
    assert ("one", "openai-chat") == chosen(routes, "/v1/chat/completions")


@pytest.mark.parametrize(("first", "near"), [("antropic", "/anthropic/"), ("OpenAI", ""), ("zzzz", "")])
def test_a_path_that_leads_nowhere_is_told_the_nearest_section(first: str, near: str) -> None:
    """A typing error is answered with its correction, anything else with what there is."""
    routes = made(BOTH)
    refusal = routes.choose(take_apart(f"/{first}/v1/messages", routes.sections), "POST", False)
    assert isinstance(refusal, Refusal)
    assert (f"Did you mean {near}?" in refusal.message) == bool(near)
    assert "/openai/" in refusal.message and "/v1/" in refusal.message


def test_a_long_path_is_repeated_only_in_part() -> None:
    """A message stays a message."""
    routes = made(BOTH)
    refusal = routes.choose(take_apart("/" + "x" * 5000, routes.sections), "POST", False)
    assert isinstance(refusal, Refusal)
    assert len(refusal.message) < 600
