"""The command line as a whole: quick help, lazy verbs, clear errors."""

import subprocess
import sys

import pytest

from gateway.__main__ import main


def test_help_imports_no_verb_and_no_library_but_click():
    """--help under 0.3 s (must hold 6): nothing heavy is imported for it."""
    code = (
        "import sys\n"
        "from gateway.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'pydantic','aiohttp','msgspec','uvloop','genai_prices','tiktoken','sqlite3','asyncio'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for verb in ("serve", "check", "run", "runs", "kill", "resume", "budget", "prices", "demo"):
        assert f"\n  {verb} " in done.stdout


@pytest.mark.parametrize("verb", ["serve", "check", "run", "runs", "kill", "resume", "budget", "prices", "demo"])
def test_every_verb_has_its_own_help(verb, capsys):
    """`meterbox VERB --help` says what it does."""
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert 0 == left.value.code
    assert f"Usage: meterbox {verb}" in capsys.readouterr().out


def test_a_mistyped_verb_is_told_the_nearest(capsys):
    """Exit status 2 and the nearest verb."""
    with pytest.raises(SystemExit) as left:
        main(["sreve"])
    assert 2 == left.value.code
    assert "Did you mean `serve`?" in capsys.readouterr().err


def test_it_is_a_module_too():
    """`python -m gateway` is the same command."""
    done = subprocess.run([sys.executable, "-m", "gateway", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("meterbox, version ")
