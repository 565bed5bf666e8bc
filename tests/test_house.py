"""Claims about the house itself: what style.md asks of every file, checked on all files that git would keep."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MOST_LINES = 400
MOST_FUNCTION_LINES = 50
PIPELINE_LINES = 150
# Files of data, and the one page of all nouns: their length is their content.
LONG = {
    "gateway/core/types.py": "the nouns of the house, values without behaviour: one page to read",
    "gateway/core/ports.py": "the sockets of the house, protocols without behaviour: one page to read",
    "gateway/core/models.py": "data: a dated table with a source per row",
    "gateway/core/presets.py": "data: what each provider does differently",
}
# Tests are lists of claims; splitting a subject's claims over files hides which are there.
TEST_LINES = 900

# Source files whose claims are tested elsewhere, each with the place and the reason.
TESTED_ELSEWHERE = {
    "gateway/core/types.py": "values only; every test makes them",
    "gateway/core/ports.py": "protocols; tests/contracts/ runs their implementations",
    "gateway/core/parts.py": "what the walk is made of; tests/walking.py fills it for tests/test_pipeline*.py",
    "gateway/edge/api_models.py": "tests/edge/test_admin.py validates every answer against them",
    "gateway/edge/api_alert_models.py": "tests/edge/test_api_alerts.py validates every answer against them",
    "gateway/edge/api_routes.py": "tests/edge/test_admin.py walks the table",
    "gateway/edge/api_door.py": "tests/edge/test_admin.py knocks",
    "gateway/edge/api_reads.py": "tests/edge/test_admin.py reads through it",
    "gateway/edge/api_views.py": "tests/edge/test_admin.py looks at every answer",
    "gateway/edge/api_events.py": "tests/edge/test_admin.py listens",
}

# Rooms that decide: `urllib.request` can't be named in an import contract, open() is no import at all.
PURE = ("core", "dialects", "rules", "detectors")


@cache
def files() -> tuple[str, ...]:
    """All files that are tracked, or would be."""
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive: nothing but the tree itself
        listed = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in path.parts]
    return tuple(sorted(name for name in set(listed) if (ROOT / name).is_file()))


def sources(*rooms: str) -> list[str]:
    """Python files below these folders, without the empty package markers."""
    return [
        name for name in files() if name.endswith(".py") and name.startswith(rooms) and name[-12:] != "/__init__.py"
    ]


def text(name: str) -> str:
    """A file's text."""
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def tree(name: str) -> ast.Module:
    """A file's syntax."""
    return ast.parse(text(name))


def test_every_file_says_its_purpose_first() -> None:
    """The first line of every module is the first line of its docstring, and a sentence."""
    for name in [*sources("gateway/", "tests/"), *(file for file in files() if file.endswith("/__init__.py"))]:
        first = text(name).split("\n", 1)[0]
        assert first.startswith('"""') and len(first) > 15, name


def test_files_and_functions_stay_small() -> None:
    """400 lines a file, 150 the pipeline, 50 a function; files of data are named above."""
    for name in sources("gateway/"):
        most = PIPELINE_LINES if name == "gateway/pipeline.py" else MOST_LINES
        lines = text(name).count("\n")
        assert name in LONG or lines <= most, f"{name} has {lines} lines"
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= MOST_FUNCTION_LINES, f"{name}: {node.name} has {length} lines"
    for name in sources("tests/"):
        assert text(name).count("\n") <= TEST_LINES, name


def test_every_source_file_has_its_test_file() -> None:
    """tests/ mirrors gateway/; what is tested elsewhere is named with the place."""
    for name in sources("gateway/"):
        path = Path(name)
        mirrored = Path("tests", *path.parent.parts[1:], f"test_{path.stem.strip('_')}.py")
        found = (ROOT / mirrored).is_file()
        assert found or name in TESTED_ELSEWHERE, f"{name} has no {mirrored}"
    for name in (*TESTED_ELSEWHERE, *LONG):
        assert (ROOT / name).is_file(), f"{name} is named here and gone"


@pytest.mark.parametrize("room", ["core", "dialects", "rules", "stores", "edge", "cli", "demo", ""])
def test_each_module_imports_alone(room: str) -> None:
    """In a fresh interpreter per room, each module first of all: no import order is needed, no import warns."""
    prefix = f"gateway/{room}/" if room else "gateway/"
    names = [name for name in sources(prefix) if name.count("/") == prefix.count("/")]
    modules = [name.removesuffix(".py").replace("/", ".") for name in names if "__main__" not in name]
    # modules of one room are dropped between imports, so that each is first once
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    for loaded in [m for m in sys.modules if m.split('.')[0] == 'gateway']: del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)


def test_pure_rooms_reach_for_nothing() -> None:
    """What import contracts can't name: no urllib.request, no open(), no print() in rooms that decide."""
    for name in sources(*(f"gateway/{room}/" for room in PURE)):
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ImportFrom):
                assert "urllib.request" != node.module, name
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"open", "print", "input", "eval", "exec"}, f"{name}:{node.lineno}"


def test_no_module_keeps_state() -> None:
    """Nothing mutable lives at module level: no lower-case name is bound to a list, dict, set or call there."""
    for name in sources("gateway/"):
        for node in tree(name).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.List | ast.Dict | ast.Set):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    # tables are constants by name; what else is made at import is shared by everybody
                    assert isinstance(target, ast.Name) and (target.id.isupper() or target.id == "__all__"), (
                        f"{name}:{node.lineno}"
                    )


FORBIDDEN = {
    "a path of one machine": re.compile(
        r"(?<![\w.])/(?:root|home/[a-z]|work/(?:main|shared)|Users/[A-Za-z]|tmp/(?!x\b))"
    ),
    "a registry's host": re.compile(
        r"pypi\.org|pythonhosted\.org|registry\.npmjs|proxy\.golang|deb\.debian|test\.pypi"
    ),
    "work that is left": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
    "a private key": re.compile(r"BEGIN (?:RSA |EC )?PRIVATE " + r"KEY-----\n[A-Za-z0-9+/]"),
}


def test_nothing_forbidden_is_kept() -> None:
    """No machine's path, no package registry's host, nothing left to do, in any file."""
    for name in files():
        raw = (ROOT / name).read_bytes()
        if b"\0" in raw[:4096] or len(raw) > 2_000_000 or name in ("tests/test_house.py", "LICENSE"):
            continue
        said = raw.decode("utf-8", "replace")
        for what, pattern in FORBIDDEN.items():
            found = pattern.search(said)
            assert found is None, f"{name} has {what}: {found.group(0) if found else ''}"


def test_names_say_what_is_meant() -> None:
    """No class is called by a word that says nothing (style.md, naming)."""
    hollow = re.compile(r"(?:Manager|Handler|Helper|Util|Utils|Service|Base|Impl|Data)$")
    for name in sources("gateway/"):
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ClassDef):
                assert hollow.search(node.name) is None, f"{name}: {node.name}"


def test_ignored_rules_say_why() -> None:
    """`type: ignore` and `noqa` carry a code and a reason."""
    for name in sources("gateway/"):
        for number, line in enumerate(text(name).split("\n"), 1):
            for mark in re.findall(r"#\s*(?:type: ignore|noqa).*", line):
                assert re.match(r"#\s*(?:type: ignore\[[\w-]+\]|noqa: [A-Z0-9, ]+)\s+(?:[#-]\s*)?\w", mark), (
                    f"{name}:{number}"
                )


# --------------------------------------------------------------------------- docs


def test_every_dependency_has_its_reason() -> None:
    """docs/dependencies.md names what pyproject.toml asks for, and nothing else."""
    project = tomllib.loads(text("pyproject.toml"))["project"]
    asked = [*project["dependencies"], *(spec for group in project["optional-dependencies"].values() for spec in group)]
    wanted = {re.split(r"[\[<>=!~; ]", spec, maxsplit=1)[0] for spec in asked}
    table = "\n".join(line.split("|")[1] for line in text("docs/dependencies.md").split("\n") if line.startswith("| `"))
    prose = text("docs/dependencies.md").rsplit("## To test with", 1)[1]
    named = set(re.findall(r"`([\w.-]+)`", table)) | (set(re.findall(r"`([\w.-]+)`", prose)) & wanted)
    assert wanted == named


def test_every_setting_is_documented() -> None:
    """docs/configuration.md names each key of each table, with its default."""
    from pydantic import BaseModel

    from gateway.config import Settings

    page = text("docs/configuration.md")
    seen: set[type[BaseModel]] = set()

    def check(model: type[BaseModel]) -> None:
        if model in seen:
            return
        seen.add(model)
        for name, field in model.model_fields.items():
            if not field.exclude:
                key = field.alias or name
                named = f"`{key}`" in page or re.search(rf"\[(?:\w+\.)?{key}\b", page)
                assert named, f"{model.__name__}.{key} is not in docs/configuration.md"
            for part in [field.annotation, *_parts(field.annotation)]:
                if isinstance(part, type) and issubclass(part, BaseModel):
                    check(part)

    check(Settings)


def _parts(annotation: object) -> list[object]:
    found: list[object] = []
    for part in getattr(annotation, "__args__", ()):
        found += [part, *_parts(part)]
    return found


def test_every_rule_and_module_is_on_the_map() -> None:
    """docs name every rule, and every layer stands in the import contracts."""
    pages = text("docs/configuration.md") + text("docs/architecture.md")
    for name in sources("gateway/rules/", "gateway/detectors/"):
        assert Path(name).stem in pages, name


def test_every_verb_and_option_is_documented() -> None:
    """docs/cli.md names each verb of the command line and each of its options."""
    import click

    main = importlib.import_module("gateway.__main__").main
    page = text("docs/cli.md")

    def walk(command: click.Command, words: str) -> None:
        assert words in page, f"{words} is not in docs/cli.md"
        for option in command.params:
            for word in option.opts if isinstance(option, click.Option) else ():
                assert not word.startswith("--") or f"`{word}" in page or f"{word} " in page, f"{words} {word}"
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                walk(child, f"{words} {name}")

    if isinstance(main, click.Command):
        walk(main, "meterbox")


def test_every_route_is_documented() -> None:
    """docs/api.md names each path of the table."""
    from gateway.edge.api_routes import ROUTES

    page = text("docs/api.md")
    for route in ROUTES:
        last = route.path if route.path.count("/") < 4 else "/" + route.path.rsplit("/", 1)[1]
        assert last in page, route.path


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link in a page of ours names a file that is there."""
    for name in [file for file in files() if file.endswith(".md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text(name)):
            assert (ROOT / name).parent.joinpath(target).exists(), f"{name} links to {target}"


def test_examples_in_the_docs_parse() -> None:
    """Every fenced example of TOML, JSON and Python in the docs can be read."""
    readers: dict[str, Callable[[str], object]] = {"toml": tomllib.loads, "python": ast.parse}
    for name in [file for file in files() if file.endswith(".md")]:
        for kind, body in re.findall(r"```(\w+)\n(.*?)```", text(name), re.DOTALL):
            if kind in readers:
                readers[kind](body)


def test_the_example_configurations_load(tmp_path: Path) -> None:
    """Every whole `meterbox.toml` in the docs (its first line says so) is accepted by the gateway itself."""
    from gateway.config import load

    found = 0
    for name in [file for file in files() if file.endswith(".md")]:
        for body in re.findall(r"```toml\n(# meterbox.toml.*?)```", text(name), re.DOTALL):
            path = tmp_path / f"{found}.toml"
            path.write_text(body)
            names = re.findall(r"\$\{(\w+)\}", body)
            load(path, dict.fromkeys(names, "sk-" + "x" * 40))
            found += 1
    assert found >= 2


def test_make_and_ci_say_the_same() -> None:
    """The README's command is what .ci/run calls, and each target that the docs name exists."""
    assert "make test" in text("README.md") and "make test" in text(".ci/run")
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    for name in [file for file in files() if file.endswith(".md")]:
        for target in re.findall(r"`make ([a-z-]+)`", text(name)):
            assert target in targets, f"{name}: make {target}"


def test_the_licence_is_whole() -> None:
    """Apache-2.0, as the project says."""
    assert "Apache-2.0" == tomllib.loads(text("pyproject.toml"))["project"]["license"]
    assert "END OF TERMS AND CONDITIONS" in text("LICENSE")
