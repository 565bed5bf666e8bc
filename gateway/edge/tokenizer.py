"""Counts tokens in a helper process: tiktoken's tables (125 MB, 1 s to load) never enter the proxy.

Invariant: the proxy never waits longer than its timeout and never more than its queue holds: late, full, broken or not
yet loaded is None. Rank files come from the package, checked by hash before tiktoken sees them, so nothing is ever
downloaded and nothing deleted. The helper has no secrets in its environment and ends with its parent (end of stdin).
What never enters: text in a log, network.

Frames, both ways: u32 length, then the frame. Up: u32 id, u8 encoding, u8 what (0 load, 1 count), UTF-8 text.
Down: u32 id, i64 count, -1 where it failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import struct
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import tiktoken

# Name under which tiktoken looks for it (sha1 of its address), and its sha256 (gateway/ranks/README.md).
RANKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "o200k_base": (
            "fb374d419588a4632f3f557e76b4b70aebbca790",
            "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        ),
        "cl100k_base": (
            "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
            "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        ),
    }
)
ENCODINGS = tuple(RANKS)
FOLDER = Path(__file__).resolve().parents[1] / "ranks"

TIMEOUT_S = 2.0
# A helper that owes the same answer after two looks so far apart is stuck: it is replaced.
STUCK_S = 15.0
MOST_BYTES = 4 << 20  # of one text: 0.2 s of counting
MOST_WAITING = 256
MOST_WAITING_BYTES = 32 << 20
BACKOFF_S, MOST_BACKOFF_S = 1.0, 60.0
END_S = 0.5

_LENGTH = struct.Struct(">I")
_UP = struct.Struct(">IBB")
_DOWN = struct.Struct(">Iq")
_LOAD, _COUNT = 0, 1


class HelperTokenizer:
    """Implements ports.Tokenizer. Nothing is started before `warm` (or a first `count`)."""

    def __init__(self, folder: Path = FOLDER, *, timeout_s: float = TIMEOUT_S, stuck_s: float = STUCK_S) -> None:
        self._folder = folder
        self._stuck_s = stuck_s
        self._timeout_s = timeout_s
        self._backoff_s = BACKOFF_S
        self._not_before = 0.0
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._wanted: set[str] = set()
        self._ready: set[str] = set()
        self._failed: set[str] = set()
        self._waiting: dict[int, tuple[asyncio.Future[int], int]] = {}
        self._waiting_bytes = 0
        self._loads: dict[int, str] = {}
        self._next = 0
        self._hoping = 0
        self._changed = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The helper's process id, while it runs."""
        return self._process.pid if self._process is not None else None

    def ready(self, encoding: str) -> bool:
        """Is the encoding loaded?"""
        return encoding in self._ready

    def warm(self, encoding: str) -> None:
        """Begins to load, in the helper process; returns at once. Unknown or broken encodings are never tried again."""
        if encoding not in RANKS or encoding in self._failed or encoding in self._ready:
            return
        asked = encoding in self._wanted
        self._wanted.add(encoding)
        if self._task is None:
            loop = asyncio.get_running_loop()
            if loop.time() >= self._not_before:
                self._task = loop.create_task(self._run(), name="tokenizer")
        elif not asked and self._process is not None:
            self._load(encoding)

    async def count(self, encoding: str, text: str) -> int | None:
        """Tokens of the text; None if the helper is gone, busy or late, or hasn't loaded in time.

        A count that comes while the encoding loads waits for it: whoever asks here is about to cut a stream, and text
        that passed uncounted can't be cut any more.
        """
        if encoding not in self._ready and not await self._comes(encoding):
            return None
        data = text.encode("utf-8", "replace")  # lone surrogates become `?`
        full = len(self._waiting) >= MOST_WAITING or self._waiting_bytes + len(data) > MOST_WAITING_BYTES
        if len(data) > MOST_BYTES or full:
            return None
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        frame_id = self._number()
        self._waiting[frame_id] = (waiter, len(data))
        self._waiting_bytes += len(data)
        self._send(_UP.pack(frame_id, ENCODINGS.index(encoding), _COUNT) + data)
        try:
            async with asyncio.timeout(self._timeout_s):
                # shielded: the answer of a late frame still has to take its place in the queue
                counted = await asyncio.shield(waiter)
        except TimeoutError:
            return None
        return counted if counted >= 0 else None

    async def _comes(self, encoding: str) -> bool:
        """Waits for a load that is under way, at most the timeout; a queue of bounded length."""
        self.warm(encoding)
        if self._hoping >= MOST_WAITING:
            return False
        self._hoping += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                while self._task is not None and encoding in self._wanted - self._failed - self._ready:
                    await self._changed.wait()
        except TimeoutError:
            return False
        finally:
            self._hoping -= 1
        return encoding in self._ready

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def close(self) -> None:
        """Ends the helper."""
        self._not_before = float("inf")
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    # ------------------------------------------------------------------- the helper's life, seen from here

    async def _run(self) -> None:
        """Starts the helper and reads its answers until it ends; a later `warm` may start another one."""
        try:
            self._process = await self._start()
            for encoding in sorted(self._wanted):
                self._load(encoding)
            await self._answers(self._process)
        except OSError:
            pass  # no helper can be started now: the same as one that died
        finally:
            await self._bury()

    async def _start(self) -> asyncio.subprocess.Process:
        """Starts the helper. A close in the middle of it still gets to know the process, and ends it."""
        begun = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                __name__,
                str(self._folder),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # a Ctrl-C is the parent's to handle
            )
        )
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            self._process = await begun
            raise

    async def _answers(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        before = None
        while True:
            try:
                async with asyncio.timeout(self._stuck_s):
                    frame = await _read_frame(process.stdout)
            except TimeoutError:
                oldest = next(iter(self._loads or self._waiting), None)
                if oldest is not None and oldest == before:
                    return
                before = oldest
                continue
            if frame is None:
                return
            frame_id, counted = _DOWN.unpack(frame)
            self._answered(frame_id, counted)

    def _answered(self, frame_id: int, counted: int) -> None:
        encoding = self._loads.pop(frame_id, None)
        if encoding is not None:
            (self._ready if counted >= 0 else self._failed).add(encoding)
            self._backoff_s = BACKOFF_S
            self._wake()
            return
        waiter, size = self._waiting.pop(frame_id)
        self._waiting_bytes -= size
        if not waiter.done():
            waiter.set_result(counted)

    async def _bury(self) -> None:
        """Whatever was asked of a helper that is gone gets None; the next one may come after a pause."""
        process, self._process = self._process, None
        self._ready.clear()
        self._loads.clear()
        for waiter, _ in self._waiting.values():
            if not waiter.done():
                waiter.set_result(-1)
        self._waiting.clear()
        self._waiting_bytes = 0
        now = asyncio.get_running_loop().time()
        self._not_before = max(self._not_before, now + self._backoff_s)
        self._backoff_s = min(MOST_BACKOFF_S, self._backoff_s * 2)
        try:
            if process is not None:
                await _whole(_end(process))
        finally:
            self._task = None
            self._wake()

    def _load(self, encoding: str) -> None:
        frame_id = self._number()
        self._loads[frame_id] = encoding
        self._send(_UP.pack(frame_id, ENCODINGS.index(encoding), _LOAD))

    def _number(self) -> int:
        self._next = (self._next + 1) & 0xFFFFFFFF
        return self._next

    def _send(self, frame: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            # no drain: what may wait here is bounded by MOST_WAITING_BYTES
            self._process.stdin.write(_LENGTH.pack(len(frame)) + frame)


def _environment() -> dict[str, str]:
    """The helper needs its packages and nothing else: no credential of the proxy's environment reaches it."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
    here = str(Path(__file__).resolve().parents[2])
    return kept | {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"}


async def _read_frame(stream: asyncio.StreamReader) -> bytes | None:
    try:
        (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
        return await stream.readexactly(length) if length == _DOWN.size else None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def _whole(step: Coroutine[None, None, None]) -> None:
    """Runs the step to its end. Who is cancelled meanwhile hears of it after: a process that nobody waits for stays."""
    task = asyncio.ensure_future(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    """End of stdin ends the helper; one that is stuck is killed. Not at once: kill() would reap one that is dead
    already, behind the event loop's back."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    # the loop learns a moment later that the pipes are gone; a loop that ends before leaves them to the collector
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(END_S):
            if process.stdin is not None:
                await process.stdin.wait_closed()
            if process.stdout is not None:
                await process.stdout.read()
            await asyncio.sleep(0)


# --------------------------------------------------------------------------- inside of the helper


def _loaded(folder: Path, name: str) -> tiktoken.Encoding | None:
    """The encoding, from a rank file whose hash is right; None otherwise."""
    file, sha256 = RANKS[name]
    try:
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != sha256:
            return None
    except OSError:
        return None
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    import tiktoken

    return tiktoken.get_encoding(name)


def _served(source: IO[bytes], sink: IO[bytes], folder: Path) -> None:
    """Answers frames in order until the parent is gone."""
    encodings: dict[str, tiktoken.Encoding | None] = {}
    while len(head := source.read(_LENGTH.size)) == _LENGTH.size:
        frame = source.read(_LENGTH.unpack(head)[0])
        frame_id, index, what = _UP.unpack_from(frame)
        name = ENCODINGS[index]
        if name not in encodings:
            encodings[name] = _loaded(folder, name)
        answer = _DOWN.pack(frame_id, _counted(encodings[name], what, frame[_UP.size :]))
        sink.write(_LENGTH.pack(len(answer)) + answer)
        sink.flush()


def _counted(encoding: tiktoken.Encoding | None, what: int, data: bytes) -> int:
    if encoding is None:
        return -1
    if what != _COUNT:
        return 0
    try:
        return len(encoding.encode_ordinary(data.decode("utf-8", "replace")))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - tiktoken panics (not an Exception) on megabytes of blanks: that text has no count
        return -1


if __name__ == "__main__":
    _served(sys.stdin.buffer, sys.stdout.buffer, Path(sys.argv[1]))
