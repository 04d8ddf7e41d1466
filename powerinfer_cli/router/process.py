"""One model's server in a process of its own, which listens on a socket in a folder of the router's."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from powerinfer_cli.serving.load_progress import LoadProgress
from powerinfer_cli.system.memory import resident_memory
from powerinfer_cli.system.signals import APART, TELLS_TO_END
from powerinfer_cli.system.sockets import free_port, path_family

__all__ = ["ModelProcess"]

ASK_S = (0.01, 0.05)  # between questions whether the model is there, at first and later
LINE = 1 << 16  # bytes of a process's log that are read as a line
LAST = 20  # lines of it that are kept
FAULT = "error: "


@dataclass(frozen=True)
class _Door:
    """Where a process listens: flags that tell it so, and how it is reached."""

    words: tuple[str, ...]
    transport: httpx.AsyncHTTPTransport
    url: str
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def _by_path(socket: Path) -> _Door:
    transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=httpx.Limits(max_connections=None))
    return _Door(("--host", str(socket)), transport, "http://model")


def _by_port() -> _Door:
    """For Windows: on this machine's own address, with a key that nobody else knows. (Not run there yet.)"""
    port, key = free_port(), secrets.token_urlsafe(32)
    return _Door(
        ("--host", "127.0.0.1", "--port", str(port)),
        httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None)),
        f"http://127.0.0.1:{port}",
        {"LLAMA_API_KEY": key},
        {"authorization": f"Bearer {key}"},
    )


class ModelProcess:
    """Runs from `start` on. `client` reaches it; `ended` is set once it is gone.

    Its standard input is a pipe that nobody writes to: should the router die, however it does, the process sees its end
    and ends, too.
    """

    def __init__(self, words: Sequence[str], socket: Path, environment: Mapping[str, str], note: Callable[[str], None]):
        """words: the program and its flags, without where it listens. note: told each line of its log."""
        self.words, self._socket, self._note = tuple(words), socket, note
        door = _by_port() if path_family() is None else _by_path(socket)
        self._where, self._environment = door.words, {**environment, **door.environment}
        self.client = httpx.AsyncClient(
            transport=door.transport,
            base_url=door.url,
            headers=door.headers,
            timeout=None,  # how long an answer may take is its server's and its client's affair
        )
        self.ended = asyncio.Event()
        self.exit_code: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._sent: int | None = None
        self._lines: deque[str] = deque(maxlen=LAST)
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises OSError: no process can be made."""
        self._process = await asyncio.create_subprocess_exec(
            *self.words,
            *self._where,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            limit=LINE,
            **APART,  # a Ctrl-C at the terminal is the router's: it ends its models in order
        )
        self._watch = asyncio.create_task(self._watched(self._process))
        if self._sent is not None:  # meanwhile
            self._signal(self._sent)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def memory(self) -> int:
        """Bytes of main memory that it has now."""
        return 0 if self.pid is None else resident_memory(self.pid) or 0

    @property
    def fault(self) -> str:
        """Why it ended by itself, in a line; empty where it did not say."""
        said = [line.removeprefix(FAULT) for line in self._lines if line.startswith(FAULT)]
        return said[-1] if said else ""

    async def loaded(self, on_progress: Callable[[LoadProgress], None]) -> bool:
        """Waits until its model is there (True), or it has ended. on_progress: told how far it is."""
        pause = ASK_S[0]
        while not self.ended.is_set():
            try:
                answer = await self.client.get("/health")
                if answer.status_code == 200:
                    return True
                if (progress := _progress(answer)) is not None:
                    on_progress(progress)
            except (httpx.TransportError, RuntimeError):
                pass  # it does not listen yet; or is about to be seen as ended, its client closed
            await asyncio.sleep(pause)
            pause = min(2 * pause, ASK_S[1])
        return False

    async def stop(self, patience_s: float) -> None:
        """Tell it to end, kill it if it does not, and wait until it has."""
        self._signal(TELLS_TO_END)
        try:
            await asyncio.wait_for(self.ended.wait(), patience_s)
        except TimeoutError:
            self.kill()
            await self.ended.wait()

    def kill(self) -> None:
        """At once, without waiting."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _signal(self, number: int) -> None:
        self._sent = number
        if self._process is not None and self._process.returncode is None:
            try:
                self._process.send_signal(number)
            except (OSError, SystemError, ValueError):  # Windows, without a console that would pass it on
                if self._process.stdin is not None and not self._process.stdin.is_closing():
                    self._process.stdin.close()  # it sees that, and ends
                else:
                    self.kill()

    async def _watched(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:
                continue  # longer than a line may be: what was read is dropped
            if not line:
                break
            text = line.decode("utf-8", "replace").rstrip()
            self._lines.append(text)
            self._note(text)
        self.exit_code = await process.wait()
        await self.client.aclose()
        self._socket.unlink(missing_ok=True)
        self.ended.set()


def _progress(answer: httpx.Response) -> LoadProgress | None:
    """What a server that loads tells of it."""
    try:
        return LoadProgress.read(answer.json()["error"]["progress"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
