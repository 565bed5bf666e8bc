"""The helper process counts, never blocks its caller, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.edge import tokenizer
from gateway.edge.tokenizer import ENCODINGS, FOLDER, HelperTokenizer

PATIENCE_S = 30.0


async def until(condition, what: str) -> None:
    """Waits for something that happens in another process."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - there is no event in another process to wait for
            await asyncio.sleep(0.01)
    assert condition(), what


@pytest.fixture
async def helper():
    """A helper that has loaded cl100k_base."""
    one = HelperTokenizer(timeout_s=PATIENCE_S)
    one.warm("cl100k_base")
    await until(lambda: one.ready("cl100k_base"), "loaded")
    yield one
    await one.close()


async def test_nothing_runs_before_it_is_needed():
    """Idle memory of the proxy: no helper before the first need."""
    one = HelperTokenizer()
    assert one.pid is None
    await one.close()


def test_the_proxy_never_imports_tiktoken():
    """Its tables are 125 MB: they belong to the helper."""
    script = "import sys, gateway.edge.tokenizer; sys.exit('tiktoken' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", script], check=False).returncode


async def test_a_first_count_loads_and_waits_for_it():
    """Text that passes uncounted can't be cut any more, so a count waits for the load, at most its timeout."""
    one = HelperTokenizer(timeout_s=PATIENCE_S)
    assert [2, 1] == list(
        await asyncio.gather(one.count("cl100k_base", "hello world"), one.count("cl100k_base", "hello"))
    )
    await one.close()


async def test_a_load_that_takes_too_long_is_none():
    """The stream goes on after the timeout, counted by its bytes."""
    one = HelperTokenizer(timeout_s=0.01)
    assert await one.count("cl100k_base", "hello world") is None
    await one.close()


async def test_who_waits_for_a_load_is_bounded():
    """256 may wait; the next one gets None at once, and all of them when the helper ends."""
    one = HelperTokenizer(timeout_s=PATIENCE_S)
    waiting = [asyncio.ensure_future(one.count("cl100k_base", "x")) for _ in range(tokenizer.MOST_WAITING)]
    await until(lambda: one.pid is not None, "started")
    assert await one.count("cl100k_base", "x") is None
    await one.close()
    assert [None] * tokenizer.MOST_WAITING == list(await asyncio.gather(*waiting))


async def test_counts_equal_tiktokens_own(helper):
    """Both encodings, as tiktoken counts them; special tokens are plain text; lone surrogates are tolerated."""
    helper.warm("o200k_base")
    await until(lambda: helper.ready("o200k_base"), "second encoding")
    texts = ["", "hello world", "<|endoftext|>", "大模型 नमस्ते 🙂", "x = [1, 2]\n" * 50, "a\ud800b"]
    for name in ENCODINGS:
        own = tokenizer._loaded(FOLDER, name)
        assert own is not None
        for text in texts:
            assert len(own.encode_ordinary(text.replace("\ud800", "?"))) == await helper.count(name, text)


async def test_many_at_once_each_get_their_own_count(helper):
    """Answers find their questions."""
    texts = ["word " * number for number in range(1, 60)]
    expected = [await helper.count("cl100k_base", text) for text in texts]
    assert expected == list(await asyncio.gather(*(helper.count("cl100k_base", text) for text in texts)))


async def test_a_text_above_the_cap_is_not_counted(helper):
    """4 MiB a text, 256 texts and 32 MiB waiting: beyond that None, at once."""
    assert await helper.count("cl100k_base", "x" * (tokenizer.MOST_BYTES + 1)) is None
    os.kill(helper.pid, signal.SIGSTOP)
    waiting = [asyncio.ensure_future(helper.count("cl100k_base", "x")) for _ in range(tokenizer.MOST_WAITING)]
    await asyncio.sleep(0)
    assert await helper.count("cl100k_base", "x") is None
    os.kill(helper.pid, signal.SIGCONT)
    assert [1] * tokenizer.MOST_WAITING == list(await asyncio.gather(*waiting))


async def test_bytes_that_wait_are_bounded(helper):
    """A few large texts fill the queue as well."""
    os.kill(helper.pid, signal.SIGSTOP)
    large = "word " * (tokenizer.MOST_BYTES // 5)
    room = tokenizer.MOST_WAITING_BYTES // len(large)
    waiting = [asyncio.ensure_future(helper.count("cl100k_base", large)) for _ in range(room)]
    await asyncio.sleep(0)
    assert await helper.count("cl100k_base", large) is None
    os.kill(helper.pid, signal.SIGKILL)
    assert [None] * room == list(await asyncio.gather(*waiting))


async def test_a_late_answer_is_none_and_the_next_one_counts(helper):
    """The caller waits for its timeout and no longer; a late frame doesn't confuse the later ones."""
    helper._timeout_s = 0.05
    os.kill(helper.pid, signal.SIGSTOP)
    assert await helper.count("cl100k_base", "late") is None
    os.kill(helper.pid, signal.SIGCONT)
    helper._timeout_s = PATIENCE_S
    assert 2 == await helper.count("cl100k_base", "hello world")


async def test_a_text_that_breaks_tiktoken_breaks_nothing_else(helper):
    """Two million blanks exceed its regex engine's stack: no count for them, and the helper lives on."""
    helper.warm("o200k_base")
    await until(lambda: helper.ready("o200k_base"), "the larger encoding")
    first = helper.pid
    assert await helper.count("o200k_base", " " * 2_000_000) is None
    assert 2 == await helper.count("o200k_base", "hello world")
    assert first == helper.pid


async def test_a_helper_that_dies_is_replaced_after_a_pause(helper):
    """Whoever waits gets None; until the pause is over nobody starts another; then it loads again."""
    first = helper.pid
    os.kill(first, signal.SIGSTOP)
    waiting = asyncio.ensure_future(helper.count("cl100k_base", "x"))
    await asyncio.sleep(0)
    os.kill(first, signal.SIGKILL)
    assert await waiting is None
    await until(lambda: helper._task is None, "buried")
    assert not helper.ready("cl100k_base")
    assert await helper.count("cl100k_base", "x") is None
    assert helper.pid is None
    helper._not_before = 0.0
    helper.warm("cl100k_base")
    await until(lambda: helper.ready("cl100k_base"), "loaded again")
    assert 1 == await helper.count("cl100k_base", "x")
    assert first != helper.pid


async def test_pauses_between_deaths_grow_up_to_a_minute():
    """A helper that can't live is not started again and again: 1, 2, 4 ... 60 s."""
    one = HelperTokenizer()
    pauses = []
    for _ in range(8):
        pauses.append(one._backoff_s)
        await one._bury()
    assert [1, 2, 4, 8, 16, 32, 60, 60] == pauses


async def test_a_helper_that_is_stuck_is_replaced():
    """It owes the same answer after two looks: it is killed, and nothing hangs."""
    one = HelperTokenizer(stuck_s=0.1)
    one.warm("cl100k_base")
    await until(lambda: one.pid is not None, "started")
    stuck = one.pid
    assert stuck is not None
    os.kill(stuck, signal.SIGSTOP)
    await until(lambda: one._task is None, "buried")
    assert one.pid is None
    assert not one.ready("cl100k_base")
    await one.close()


async def test_a_close_while_a_dead_helper_is_buried_waits_for_it():
    """Else the process is nobody's: a zombie, and pipes for the collector."""
    one = HelperTokenizer(stuck_s=0.1)
    one.warm("cl100k_base")
    await until(lambda: one.pid is not None, "started")
    process = one._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)  # so that its end takes as long as it may
    await until(lambda: one.pid is None, "given up")
    assert process.returncode is None
    await one.close()
    assert process.returncode is not None


async def test_a_rank_file_that_was_changed_is_never_used(tmp_path):
    """The hash is checked here: tiktoken would delete the file and download another one."""
    for file in FOLDER.iterdir():
        shutil.copy(file, tmp_path / file.name)
    spoiled = tmp_path / tokenizer.RANKS["o200k_base"][0]
    spoiled.write_bytes(spoiled.read_bytes()[:-1] + b"0")
    one = HelperTokenizer(tmp_path)
    one.warm("o200k_base")
    await until(lambda: "o200k_base" in one._failed, "refused")
    assert spoiled.exists()
    assert not one.ready("o200k_base")
    assert await one.count("o200k_base", "x") is None
    one.warm("cl100k_base")
    await until(lambda: one.ready("cl100k_base"), "the other one still works")
    await one.close()


async def test_without_rank_files_there_is_no_tokenizer_and_no_download(tmp_path):
    """Missing files are the same as broken ones: None, for good."""
    one = HelperTokenizer(tmp_path)
    one.warm("o200k_base")
    await until(lambda: "o200k_base" in one._failed, "missing")
    assert [] == list(tmp_path.iterdir())
    await one.close()


async def test_an_unknown_encoding_is_ignored():
    """No helper is started for a name that has no rank file."""
    one = HelperTokenizer()
    one.warm("p50k_base")
    assert one.pid is None
    assert await one.count("p50k_base", "x") is None
    await one.close()


def test_the_helper_ends_with_its_parent():
    """Its stdin ends when the parent is killed, and then it ends too: no orphan keeps 100 MB."""
    script = """
import asyncio, sys
from gateway.edge.tokenizer import HelperTokenizer
async def main():
    one = HelperTokenizer()
    one.warm("cl100k_base")
    while not one.ready("cl100k_base"):
        await asyncio.sleep(0.01)
    print(one.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    descriptor = os.pidfd_open(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    import select

    ended, _, _ = select.select([descriptor], [], [], PATIENCE_S)
    os.close(descriptor)
    assert ended


def test_the_helper_sees_no_secret(monkeypatch):
    """Only what Python needs is in its environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    kept = tokenizer._environment()
    assert {"PATH", "LANG", "SYSTEMROOT", "PYTHONPATH", "OMP_NUM_THREADS"} >= set(kept)
    assert "sk-very-secret" not in "".join(kept.values())


def test_the_rank_files_are_the_ones_that_tiktoken_pins():
    """Names and hashes equal those in tiktoken's own table, so nothing is ever downloaded."""
    from importlib.util import find_spec

    spec = find_spec("tiktoken_ext.openai_public")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text()
    for name, (_, sha256) in tokenizer.RANKS.items():
        assert sha256 in source
        assert tokenizer._loaded(FOLDER, name) is not None
