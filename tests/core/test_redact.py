"""Nothing that is a secret is written down, nothing else is lost, and no text takes long (R-036, R-083; security.md).

Invariant: every secret here is made up, and put together at run time, so that no scanner of repositories finds one.
"""

from __future__ import annotations

import random
import string
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.redact import CARRY, TEXT_MOST, clean, redact

BODY = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0"
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0.dBjftJeZ4CVPmB92K27uhbUJU1p1r"
PEM = "-----BEGIN {0}PRIVATE KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQ+/=\n-----END {0}PRIVATE " + "KEY-----"
SECRETS = {
    "api-key": [
        f"sk-{BODY}", f"sk-proj-{BODY}", f"sk-ant-api03-{BODY}", "sk-" + "canarycanarycanary", f"ghp_{BODY[:36]}",
        f"github_pat_{BODY}", "AKIA" + "IOSFODNN7EXAMPLE", f"xoxb-12345-{BODY[:20]}", f"AIza{BODY[:35]}", f"hf_{BODY}",
        f"gsk_{BODY}", f"sk_live_{BODY[:24]}", f"glpat-{BODY[:20]}", f"whsec_{BODY[:32]}",
    ],
    "bearer": [BODY[:24]],
    "jwt": [JWT],
    "private-key": [PEM.format(""), PEM.format("RSA "), PEM.format("OPENSSH "), PEM.format("").replace("\n", "\\n")],
    "card": ["4111111111111111", "4111 1111 1111 1111", "5500-0055-5555-5559", "378282246310005", "3782 822463 10005"],
    "email": ["joe.doe+tag@mail.example.com"],
    "iban": ["DE89370400440532013000", "GB82 WEST 1234 5698 7654 32"],
    "phone": ["+49 170 1234567", "+1 (555) 123-4567", "(555) 123-4567", "555-123-4567"],
}  # fmt: skip
FRAMES = [
    "{}",
    "say {} now",
    "line\n{}\nline",
    "({})",
    '{{"x": "{}"}}',
    "a\\n{}\\nb",
    "x=\\u003d{}",
    "\u00e9 {} \u00e9",
]


def _cases() -> list[tuple[str, str, str]]:
    return [
        (kind, secret, frame if kind != "bearer" else frame.replace("{}", "Authorization: Bearer {}"))
        for kind, secrets in SECRETS.items()
        for secret in secrets
        for frame in FRAMES
    ]


@pytest.mark.parametrize(("kind", "secret", "frame"), _cases())
def test_secrets_give_way_to_a_marker_that_names_them(kind: str, secret: str, frame: str) -> None:
    """Wherever it stands, in JSON within JSON too; what stands around it stays."""
    assert frame.format(f"[redacted:{kind}]") == redact(frame.format(secret))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgres://app:hun" + "ter2@db/x", "postgres://app:[redacted:password]@db/x"),
        ("password: hun" + "ter2!", "password: [redacted:password]"),
        ('{"api_key": "abcd' + '1234"}', '{"api_key": "[redacted:password]"}'),
        ('{\\"client_secret\\": \\"abcd' + '1234\\"}', '{\\"client_secret\\": \\"[redacted:password]\\"}'),
        ("AWS_SECRET_ACCESS_KEY=" + "wJalrXUtnFEMI/K7MDENG/bPx", "AWS_SECRET_ACCESS_KEY=[redacted:password]"),
        ("DB_PASSWORD => 'abcd1'", "DB_PASSWORD => '[redacted:password]'"),
        ("the token is " + "0123456789abcdef" * 3, "the token is [redacted:random]"),
        ("12 4111111111111111", "12 [redacted:card]"),
        ("1234 4111 1111 1111 1111", "1234 [redacted:card]"),
    ],
)  # fmt: skip
def test_what_a_name_makes_a_secret(text: str, said: str) -> None:
    """A password is one by its name, a random text by the word before it."""
    assert said == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "task-management-system-for-everyone", "The secret of a good password is its length.", "max_tokens: 4096",
        "password: required", "token: string", "commit 0123456789abcdef0123456789abcdef01234567", "see @decorator",
        "order 4111111111111112", "1763754206123456789", "3.14159265358979323", "2019 2020 2021 2022", "https://a.b/c:d",
        "2026-11-21T20:00:00", "basic arithmetic is easy", "password: ****", "password=$DB_PASSWORD", "a+b@c",
        "12:30:45",
        "0.1234567890123456", "550e8400-e29b-41d4-a716-446655440000", "-----BEGIN CERTIFICATE-----\nMIIB",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    """A marker in place of what was said costs whoever looks for a cause."""
    assert text == redact(text)


def test_a_json_value_is_cleaned_to_its_leaves() -> None:
    """Arguments of a tool: names, texts, numbers, whatever depth; a field's name makes any word in it a secret."""
    given_ = {
        "to": "joe@example.com", "password": "tulip", "pay": {"card": 4111111111111111, "cents": 4200, "ok": True},
        f"sk-{BODY}": [f"sk-{BODY}", None, 1.5], "auth": {"token": ["tulip", "null"]},
        "schema": {"password": {"type": "string"}},
    }  # fmt: skip
    assert {
        "to": "[redacted:email]", "password": "[redacted:secret]",
        "pay": {"card": "[redacted:card]", "cents": 4200, "ok": True},
        "[redacted:api-key]": ["[redacted:api-key]", None, 1.5], "auth": {"token": ["[redacted:secret]", "null"]},
        "schema": {"password": {"type": "string"}},
    } == clean(given_)  # fmt: skip


def test_depth_has_a_limit() -> None:
    """Nesting is bounded, whatever came over the wire."""
    deep: Any = "end"
    for _ in range(200):
        deep = [deep]
    assert "[" * 64 + "'[cut: too deep]'" + "]" * 64 == repr(clean(deep))


def test_a_long_text_is_cut_and_never_through_a_secret() -> None:
    """What the cut would part is left out: no beginning of a key stays."""
    for shift in range(0, 60, 7):
        text = "x " * ((TEXT_MOST - shift) // 2) + f"sk-{BODY}" + " y" * 100
        said = redact(text)
        assert len(said) <= TEXT_MOST and "sk-" not in said and "[cut: " in said
        more = int(said.rsplit("[cut: ", 1)[1].split()[0])
        assert len(text) - TEXT_MOST <= more <= len(text) - TEXT_MOST + 2 * CARRY
        many = redact("x" * shift + f" sk-{BODY}" * 2_000)  # each marker is shorter than its key: the cut moves away
        assert "sk-" not in many and "[cut: " in many
    assert len(redact("password: abcd " * (TEXT_MOST // 15))) <= TEXT_MOST, "markers are longer than what they replace"


ALPHABET = ["sk-", "eyJ", ".", "@", "://", ":", "password", "key", "token ", "4111", " ", "1", "-", "a", "Bearer ",
            "\\n", "+", "(", "DE89", "-----BEGIN PRIVATE KEY-----", "-----END ", '"', "\u0130", "=",
            "[redacted:jwt]"]  # fmt: skip


@given(st.lists(st.sampled_from(ALPHABET), max_size=60).map("".join))
def test_once_is_as_good_as_twice(text: str) -> None:
    """What was redacted has nothing left to redact."""
    once = redact(text)
    assert once == redact(once)


@given(
    st.sampled_from([one for kind, many in SECRETS.items() if kind != "bearer" for one in many]),
    st.text(max_size=40),
    st.text(max_size=40),
)
def test_nothing_around_it_hides_a_secret(secret: str, before: str, after: str) -> None:
    """Any text before and behind, with a blank between."""
    assert secret not in redact(f"{before} {secret} {after}")


CHANCE = random.Random(7)
HOSTILE = {
    "digits": "1", "cards": "4111 ", "nearly cards": "4111 1111 1111 1112 ", "keys": "sk-", "tokens": "eyJ",
    "token parts": "eyJa.", "mail": "a@", "domains": "@a.", "urls": "://", "url passwords": "://a:",
    "passwords": "password", "assigned": "password: ", "near": "key ", "pem": "-----BEGIN PRIVATE KEY-----",
    "dashes": "-", "letters": "A",
    "ibans": "DE89 3704 ", "phones": "+1 ", "brackets": "(555) 123-456 ", "bearer": "bearer ", "escapes": "\\",
    "quotes": 'password\\"\\"\\"', "random": "".join(CHANCE.choices(string.ascii_letters + string.digits, k=997)),
}  # fmt: skip


def _cpu_s(text: str) -> float:
    began = time.process_time()
    redact(text)
    return time.process_time() - began


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_time_is_linear_in_the_text(unit: str) -> None:
    """Eight times the text takes about eight times the time, not sixty-four, also where somebody wants it otherwise."""
    small, large = (unit * (size // len(unit)) for size in (TEXT_MOST // 8, TEXT_MOST))
    least = min(_cpu_s(small) for _ in range(3))
    assert _cpu_s(large) < 24 * least + 0.05
