"""The texts that settings come from: a TOML file, environment variables, flags; and where in them each key stands.

Invariant: every value of the tree knows its origin, so that an error can name file and line, variable or flag; a value
is never quoted in an error, because it may be a secret. What never enters: what a setting means (config.py).
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path as FilePath
from typing import Any

from gateway.core.errors import ConfigError

Path = tuple[str | int, ...]
PREFIX = "METERBOX_"
_MOST_BYTES = 1_000_000  # a configuration beyond that is a mistake (a wrong --config)
_EXACT = Context(prec=60)
_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"^\s*(\[\[?)\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(rf"^\s*({_DOTTED})\s*=")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Origins:
    """Where each key of the tree was written; an unknown key answers with the nearest one above it, else below."""

    def __init__(self, whole: str) -> None:
        self._whole = whole  # what to say where nothing nearer is known: the file's name, or "settings"
        self._places: dict[Path, str] = {}

    def put(self, path: Path, place: str, *, again: bool = False) -> None:
        """Notes a place; the first one stays unless `again` (an environment variable over the file)."""
        if again or path not in self._places:
            self._places[path] = place

    def place(self, path: Path) -> str:
        """The words in front of an error's colon."""
        for end in range(len(path), 0, -1):
            if path[:end] in self._places:
                return self._places[path[:end]]
        below = (place for known, place in self._places.items() if path and known[: len(path)] == path)
        return next(below, self._whole)  # `rates`, where only [[rates]] stands


def read_file(file: FilePath, origins: Origins, raw: bytes | None = None) -> dict[str, Any]:
    """The file's tree, numbers as exact decimals; notes each key's line. Raises ConfigError with file and line.

    raw: what was read from it before.
    """
    try:
        raw = file.read_bytes() if raw is None else raw
        if len(raw) > _MOST_BYTES:
            raise ConfigError(
                f"{file}: larger than 1 MB; this can't be a configuration: name another file with --config"
            )
        text = raw.decode()
    except OSError as error:
        raise ConfigError(f"{file}: can't be read ({error.strerror}): check the path given with --config") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}: not UTF-8: save the file as UTF-8") from error
    try:
        tree = tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, RecursionError, InvalidOperation) as error:
        raise ConfigError(_not_toml(file, text, error)) from error
    for path, line in lines_of(text):
        origins.put(path, f"{file}:{line}")
    return tree


def _not_toml(file: FilePath, text: str, error: Exception) -> str:
    found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
    line = int(found[1]) if found else len(text.splitlines()) or 1
    why = re.sub(r"\s*\(at [^)]*\)", "", str(error)) or "not a number"
    return f"{file}:{line}: not TOML: {why}"


def lines_of(text: str) -> Iterator[tuple[Path, int]]:
    """The path and line of every table and key, by one look at each line (texts over several lines aren't followed)."""
    table: Path = ()
    counts: dict[Path, int] = {}
    for number, line in enumerate(text.split("\n"), 1):  # a line ends nowhere else in TOML
        if header := _HEADER.match(line):
            table = _parts(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            elif table[:1] in counts:  # [budgets.x] belongs to the latest [[budgets]]
                table = (*table[:1], counts[table[:1]], *table[1:])
            yield table, number
        elif key := _KEY.match(line):
            yield (*table, *_parts(key[1])), number


def _parts(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))


def read_environment(
    environ: Mapping[str, str], tree: dict[str, Any], origins: Origins, plain: Callable[[Path], bool]
) -> None:
    """Lays `METERBOX_<SECTION>__<KEY>` over the tree. `plain` tells which keys are texts; the others are TOML values.

    A variable without two underscores in a row is only for `${...}` and is left alone.
    """
    for name in sorted(environ):
        if not name.startswith(PREFIX) or "__" not in name[len(PREFIX) :]:
            continue
        path: Path = tuple(name[len(PREFIX) :].lower().split("__"))
        if "" in path:
            raise ConfigError(f"environment {name}: no setting has this name: write {PREFIX}<SECTION>__<KEY>")
        lay(tree, path, environ[name] if plain(path) else toml_value(environ[name]), f"environment {name}")
        origins.put(path, f"environment {name}", again=True)


def lay(tree: dict[str, Any], path: Path, value: Any, place: str) -> None:
    """Sets one key in the tree, making the tables above it."""
    for part in path[:-1]:
        below = tree.setdefault(str(part), {})
        if not isinstance(below, dict):
            raise ConfigError(f"{place}: `{spell(path)}` can only be written in the file")
        tree = below
    tree[str(path[-1])] = value


def toml_value(text: str) -> Any:
    """A value as it would stand in the file; what isn't TOML is a text."""
    try:
        read = tomllib.loads(f"value = {text}", parse_float=Decimal)
    except (tomllib.TOMLDecodeError, RecursionError, InvalidOperation):
        return text
    return read["value"] if len(read) == 1 else text


def fill(node: Any, environ: Mapping[str, str], origins: Origins, path: Path = ()) -> Any:
    """The tree with every `${NAME}` replaced from the environment; a missing or empty variable is an error."""
    if isinstance(node, dict):
        return {key: fill(value, environ, origins, (*path, key)) for key, value in node.items()}
    if isinstance(node, list):
        return [fill(value, environ, origins, (*path, index)) for index, value in enumerate(node)]
    if not isinstance(node, str):
        return node
    for name in _VARIABLE.findall(node):
        if not environ.get(name):
            state = "empty" if name in environ else "not set"
            raise ConfigError(
                f"{origins.place(path)}: {spell(path)}: the environment variable {name} is {state}: "
                "export it before the start, or take this line out"
            )
    return _VARIABLE.sub(lambda found: environ[found[1]], node)


def spell(path: Path) -> str:
    """A key as a person would write it: `budgets[0].usd` is the first [[budgets]]."""
    words = ""
    for part in path:
        words += f"[{part}]" if isinstance(part, int) else f".{part}" if words else part
    return words


def nearest(word: str, known: Iterable[str], *, listed: bool = False) -> str:
    """` Did you mean ...?`; where no known name is near nothing, or all of them if `listed`."""
    spelled = {one.lower(): one for one in known}
    close = difflib.get_close_matches(word.lower(), list(spelled), n=1, cutoff=0.7)
    if close:
        return f" Did you mean `{spelled[close[0]]}`?"
    return f" Known here: {', '.join(spelled.values())}" if listed and spelled else ""


def exact_nusd(value: Any) -> int:
    """Dollars, a number or a text, as whole nano-dollars. Raises ValueError: nothing is rounded, NaN is no amount."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError('write dollars as a number or a text, e.g. 10 or "0.50"')
    try:
        amount = Decimal(value.strip() if isinstance(value, str) else value)
    except InvalidOperation:
        raise ValueError('write dollars as a plain number, e.g. 10 or "0.50"') from None
    if not amount.is_finite():
        raise ValueError("NaN and infinity are no amounts")
    # copy_abs: abs() rounds. The ledger's Redis scripts are exact to 2**53 nano-dollars (ledger.md section 2)
    if amount.copy_abs() > 9_000_000:
        raise ValueError("the greatest amount is 9,000,000 dollars")
    nusd = amount.scaleb(9, _EXACT)  # nothing, where that is too small for the context
    if (
        (amount and not nusd)
        or len(amount.as_tuple().digits) > _EXACT.prec
        or nusd != nusd.to_integral_value(context=_EXACT)
    ):
        raise ValueError("at most nine digits after the point: the ledger counts whole nano-dollars")
    return int(nusd)


def finite_s(value: Any) -> float:
    """Seconds above zero, at most a week. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("write seconds as a number")
    if not math.isfinite(value) or not 0 < value <= 604_800:
        raise ValueError("seconds must be above 0 and at most 604800 (a week)")
    return float(value)
