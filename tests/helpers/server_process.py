"""A real server in a process of its own, on a port of its own."""

import re
import signal
import time
from collections.abc import Callable
from types import TracebackType

import httpx
from openai import OpenAI

from tests.helpers.main_cli import Process
from tests.helpers.result import Result

__all__ = ["RunningServer"]

PATIENCE = 60.0  # seconds, on a machine that does much else
OPEN = re.compile(r'(?:loading the model:|server is listening on) (http://[^\s",]+)')


class RunningServer:
    """`powerinfer server FLAGS` on any free port, or another command. Ready when entered, unless `wait` is False; gone
    when left.
    """

    def __init__(
        self,
        *flags: str,
        wait: bool = True,
        env: dict[str, str] | None = None,
        command: tuple[str, ...] = ("server",),
    ) -> None:
        self._process = Process(*command, "--port", "0", *flags, env=env)
        self._wait = wait
        self.url = ""
        self.client = httpx.Client()

    def __enter__(self) -> "RunningServer":
        try:
            self.url = self._find_url()
            self.client = self.new_client()
            if self._wait:
                self.wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.client.close()
        self._process.__exit__(kind, error, at)

    def new_client(self, key: str | None = None) -> httpx.Client:
        """One more, with a connection of its own. Close it."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE)

    def openai(self, key: str = "none") -> OpenAI:
        """OpenAI's own client. Close it."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, timeout=PATIENCE, max_retries=0)

    @property
    def address(self) -> tuple[str, int]:
        """For raw sockets."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What came on stderr so far."""
        return self._process.err

    def signal(self, number: signal.Signals) -> None:
        self._process.signal(number)

    def wait(self) -> Result:
        """Until it ends."""
        return self._process.wait()

    def wait_until_ready(self) -> None:
        self._until(lambda: self.client.get("/health").status_code == 200)

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Until the log has it so many times."""
        self._until(lambda: self.log.count(text) >= times)

    def _find_url(self) -> str:
        self._until(lambda: OPEN.search(self.log) is not None)
        found = OPEN.search(self.log)
        assert found is not None
        return found[1]

    def _until(self, met: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not met():
            assert self._process.alive, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
