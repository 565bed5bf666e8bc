"""What is never written down: keys, tokens, passwords, private keys, and what names or bills a person.

Each is replaced by a marker that names its kind, `[redacted:jwt]`; what stands around it stays. A secret is looked for
where a text stands that it can't do without (`sk-`, `://`, `@`), and a pattern goes forward only: time is linear in the
text, whatever stands in it, and one step in C is short, since another thread may wait for the interpreter.

Invariant: what `redact` gave is the same after `redact` again; no text is longer than TEXT_MOST afterwards. What never
enters: a list of secrets to compare with, a decision whether anything is kept at all. It can't know a password that
nothing names, a secret in an image, or one that was taken apart on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import log2
from typing import Any, Final

VERSION: Final = 1  # of these rules: stands with whatever they were used on
TEXT_MOST: Final = 65_536  # characters of one text; what is longer is cut, and says so
CARRY: Final = 256  # what stands so near to the cut goes, too: a secret that it would part is none that is known
DEPTH_MOST: Final = 64
NEAR: Final = 48  # so far before a random text a word may stand that makes it a secret

Span = tuple[int, int, str]  # from, to, kind

# Beginnings that their makers chose so that keys can be found, with the least that follows.
_PREFIXES: Final = (
    ("sk-", 16), ("sk_live_", 8), ("sk_test_", 8), ("rk_live_", 8), ("rk_test_", 8), ("pk_live_", 8), ("pk_test_", 8),
    ("ghp_", 16), ("gho_", 16), ("ghu_", 16), ("ghs_", 16), ("ghr_", 16), ("github_pat_", 16), ("glpat-", 16),
    ("xoxa-", 8), ("xoxb-", 8), ("xoxe-", 8), ("xoxp-", 8), ("xoxr-", 8), ("xoxs-", 8), ("xapp-", 8), ("AIza", 30),
    ("ya29.", 16), ("hf_", 20), ("gsk_", 20), ("xai-", 20), ("pplx-", 20), ("nvapi-", 20), ("tvly-", 16), ("AKIA", 16),
    ("lsv2_", 16), ("npm_", 20), ("pypi-", 20), ("whsec_", 16), ("dop_v1_", 20), ("shpat_", 16), ("ASIA", 16),
    ("AGE-SECRET-KEY-", 20), ("dckr_pat_", 16), ("sntrys_", 16),
)  # fmt: skip
_KEYS: Final = tuple((prefix, re.compile(rf"[A-Za-z0-9_.-]{{{least},}}+")) for prefix, least in _PREFIXES)
_ESCAPE: Final = re.compile(r"(?:\\[nrtbf]|\\u[0-9A-Fa-f]{4}|%[0-9A-Fa-f]{2})$")  # \n, \u003d, %3D
_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[^-]|-(?!----END)){0,16384}+(?:-----END [A-Z0-9 ]{0,48}-----)?"
)
_URL_PASSWORD: Final = re.compile(r"://[^\s/:@\[\]\"'<>]{0,128}+:([^\s/@\[\]\"'<>]{1,256}+)@")
_AUTH: Final = re.compile(r"(?:\s{1,4}+|%20)([A-Za-z0-9._~+/-]{12,}+={0,2})")
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]{4,}+){1,4}+\.?")
# A name, and what stands between it and its value: `password: x`, `"api_key" => "x"`, `SECRET_KEY=x`, JSON in JSON.
_ASSIGNED: Final = re.compile(
    r"(?:word|wd|phrase|code)?(?:[_-]?(?:access[_-]?key|key|value))?[\"'\\`*]{0,6}+\s{0,4}+(?:=>|:=|[:=])\s{0,4}+[\"'\\`*]{0,6}+"
    r"([^\s\"'\\`,;&<>{}\[\]()*]{4,256}+)",
    re.IGNORECASE,
)
_NAMES: Final = ("pass", "pwd", "secret", "apikey", "api_key", "api-key", "api key", "token")
_FIELD: Final = re.compile(
    r"(?:password|passwd|passphrase|passcode|pwd|secret|secret_?key|api[_-]?key|private_?key|access_?key|token|"
    r"authorization|credentials?)$",
    re.IGNORECASE,
)
_WORDS: Final = frozenset(  # of messages themselves: half of all texts in them
    {"role", "parts", "type", "content", "text", "name", "id", "arguments", "response", "user", "assistant", "tool",
     "system", "reasoning", "tool_call", "tool_call_response", "function", "description", "parameters", "properties",
     "object", "string", "required", "title", "items", "integer", "number", "boolean", "array", "enum"}
)  # fmt: skip
_PLAIN: Final = frozenset({"none", "null", "true", "false", "string", "required", "optional", "undefined", "value"})
_RANDOM: Final = re.compile(r"(?<![A-Za-z0-9_+/-])[A-Za-z0-9_+/-]{32,}+={0,2}")
_NEAR: Final = re.compile(r"key|token|secret|passw|credential|authori[sz]", re.IGNORECASE)
_MARK: Final = re.compile(r"\[redacted:[a-z-]{1,20}\]")
# A number as cards are written; the first digits are those of a card's maker (ISO/IEC 7812).
_CARD: Final = re.compile(
    r"[0-9](?<![0-9.][0-9])(?:[0-9]{12,18}|[0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}"
    r"|[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})(?![0-9])"
)
_MAKERS: Final = re.compile(
    r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|35|6(?:011|4[4-9]|5|2)"
)
_IBAN: Final = re.compile(r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_DOMAIN: Final = re.compile(r"@(?:[A-Za-z0-9-]{1,63}+\.){1,8}[A-Za-z]{2,24}")
_ESCAPED: Final = re.compile(r"[nrtbf]|u[0-9A-Fa-f]{4}")  # what a backslash took of a word
_LOCAL: Final = re.compile(r"[A-Za-z0-9._%+'-]{1,64}$")
_PHONES: Final = (
    re.compile(r"\+[0-9]{1,3}(?:[ .()-]{0,2}[0-9]){7,14}(?![0-9])"),
    re.compile(r"\([0-9]{3}\) ?[0-9]{3}[ .-][0-9]{4}(?![0-9])"),
    re.compile(r"[0-9](?<![0-9.-][0-9])[0-9]{2}([.-])[0-9]{3}\1[0-9]{4}(?![0-9-])"),
)


def redact(text: str) -> str:
    """The text without secrets, at most TEXT_MOST characters of it."""
    if len(text) <= TEXT_MOST:
        found = _without(text)
        return found if len(found) <= TEXT_MOST else _cut(found, 0)
    return _cut(_without(text[:TEXT_MOST])[:-CARRY], len(text) - TEXT_MOST + CARRY)


def clean(value: Any, named: bool = False, depth: int = DEPTH_MOST) -> Any:
    """A JSON value with every text in it redacted, names too; `named`: it stands under the name of a secret."""
    if isinstance(value, str):
        return _named(value) if named else _read(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return _marker("card") if _is_card(str(value)) else value
    if depth <= 0:
        return "[cut: too deep]"
    if isinstance(value, dict):
        return {_read(str(name)): clean(one, _tells(str(name)), depth - 1) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [clean(one, named, depth - 1) for one in value]
    return value


def _read(text: str) -> str:
    return text if text in _WORDS else redact(text)


def _marker(kind: str) -> str:
    return f"[redacted:{kind}]"


def _cut(text: str, more: int) -> str:
    kept = text[: TEXT_MOST - CARRY]
    return f"{kept} [cut: {len(text) - len(kept) + more} more characters]"


def _without(text: str) -> str:
    spans = sorted(_secrets(text))
    if not spans:
        return text
    out: list[str] = []
    done = 0
    for start, end, kind in spans:
        if start >= done:
            out += (text[done:start], _marker(kind))
        done = max(done, end)
    return "".join([*out, text[done:]])


def _secrets(text: str) -> Iterator[Span]:
    """Where they stand; they may overlap."""
    if "-----BEGIN " in text:
        yield from ((found.start(), found.end(), "private-key") for found in _PRIVATE_KEY.finditer(text))
    if "://" in text:
        yield from ((found.start(1), found.end(1), "password") for found in _URL_PASSWORD.finditer(text))
    yield from _keys(text)
    yield from _tokens(text)
    yield from _told_by_names(text, _lowered(text))
    yield from _randoms(text)
    yield from _mail(text)
    yield from _cards(text)
    yield from _numbers(text)


def _keys(text: str) -> Iterator[Span]:
    for prefix, body in _KEYS:
        if prefix in text:  # asked here, since most are not: a generator costs ten times that
            yield from _begun(text, prefix, body)


def _told_by_names(text: str, low: str) -> Iterator[Span]:
    for word in ("bearer", "basic"):
        if word in low:
            yield from _authorised(text, low, word)
    for name in _NAMES:
        if name in low:
            yield from _assigned(text, low, name)


def _places(text: str, literal: str) -> Iterator[int]:
    at = text.find(literal)
    while at >= 0:
        yield at
        at = text.find(literal, at + 1)


def _begins(text: str, at: int) -> bool:
    """Does a word begin here? Behind an escape it does, whatever letter that ends with."""
    before = text[at - 1] if at else " "
    if not (before.isascii() and before.isalnum()):
        return True
    return _ESCAPE.search(text[max(0, at - 6) : at]) is not None


def _begun(text: str, prefix: str, body: re.Pattern[str]) -> Iterator[Span]:
    done = 0
    for at in _places(text, prefix):
        if at >= done and _begins(text, at) and (found := body.match(text, at + len(prefix))):
            done = found.end()
            yield at, done, "api-key"


def _tokens(text: str) -> Iterator[Span]:
    for at in _places(text, "eyJ"):
        if (at == 0 or text[at - 1] not in "_-") and _begins(text, at) and (found := _JWT.match(text, at)):
            yield at, found.end(), "jwt"


def _lowered(text: str) -> str:
    """In small letters, each at its own place."""
    low = text.lower()
    return low if len(low) == len(text) else text.replace("\u0130", "I").lower()  # the one letter that becomes two


def _authorised(text: str, low: str, word: str) -> Iterator[Span]:
    for at in _places(low, word):
        found = _AUTH.match(text, at + len(word))
        if found and (word == "bearer" or _mixed(found[1])):
            yield found.start(1), found.end(1), word


def _assigned(text: str, low: str, name: str) -> Iterator[Span]:
    for at in _places(low, name):
        found = _ASSIGNED.match(text, at + len(name))
        if found and not _says_nothing(found[1]) and (name != "token" or _mixed(found[1])):
            yield found.start(1), found.end(1), "password"


def _says_nothing(value: str) -> bool:
    return value.lower() in _PLAIN or value.startswith("$") or set(value) <= set("*.x-_")


def _mixed(value: str) -> bool:
    """Digits among letters: no word of a language."""
    return len(value) >= 8 and any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _randoms(text: str) -> Iterator[Span]:
    """Long texts of letters and digits that no language writes, near a word that says what they are."""
    for found in _RANDOM.finditer(text):
        run, start = found[0][:CARRY], found.start()
        near = _NEAR.search(_MARK.sub("", text[max(0, start - NEAR) : start]))
        if near and sum(map(str.isdigit, run)) >= 3 and _entropy(run) >= 3.0:
            yield start, found.end(), "random"


def _entropy(text: str) -> float:
    """Bits a character."""
    size = len(text)
    shares = [text.count(letter) / size for letter in set(text)]
    return -sum(share * log2(share) for share in shares)


def _mail(text: str) -> Iterator[Span]:
    for at in _places(text, "@"):
        domain = _DOMAIN.match(text, at)
        local = _LOCAL.search(text[max(0, at - 64) : at]) if domain else None
        if domain and local:
            start = at - len(local[0])
            escape = _ESCAPED.match(local[0]) if start and text[start - 1] == "\\" else None
            yield start + (escape.end() if escape else 0), domain.end(), "email"


def _cards(text: str) -> Iterator[Span]:
    """What is no card is looked at again from its second digit on: one may begin within it."""
    found = _CARD.search(text)
    while found is not None:
        card = _is_card(found[0].translate({32: None, 45: None}))
        if card:
            yield found.start(), found.end(), "card"
        found = _CARD.search(text, found.end() if card else found.start() + 1)


def _is_card(digits: str) -> bool:
    """By its maker's first digits and its check digit (Luhn)."""
    if not 13 <= len(digits) <= 19 or not digits.isascii() or not digits.isdigit() or not _MAKERS.match(digits):
        return False
    odd = sum(map(int, digits[-1::-2]))
    even = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (odd + even) % 10 == 0


def _numbers(text: str) -> Iterator[Span]:
    for iban in _IBAN.finditer(text):
        if _begins(text, iban.start()) and _is_iban(iban[0]):
            yield iban.start(), iban.end(), "iban"
    for pattern in _PHONES:
        for phone in pattern.finditer(text):
            if _begins(text, phone.start()):
                yield phone.start(), phone.end(), "phone"


def _is_iban(spelled: str) -> bool:
    """By its length and its check digits (ISO 13616)."""
    text = spelled.replace(" ", "")
    number = "".join(str(int(letter, 36)) for letter in text[4:] + text[:4])
    return len(text) >= 15 and int(number) % 97 == 1


def _named(text: str) -> str:
    """A text in a field of such a name: a password may be any word, so all of it goes."""
    found = redact(text)
    whole = text.strip()
    if found != text or not 4 <= len(whole) <= 4_096 or " " in whole or _says_nothing(whole):
        return found
    return _marker("secret")


def _tells(name: str) -> bool:
    return _FIELD.search(name[-64:]) is not None
