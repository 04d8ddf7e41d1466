"""Templates rendered in processes of their own: what ends them, and what becomes of the processes."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.rendering import process as process_module
from powerinfer_cli.rendering.cancelling import Cancellation, cancellation
from powerinfer_cli.rendering.limits import Cause, Limits, RenderingError
from powerinfer_cli.rendering.renderer import Renderer
from scripts.soaking.hostile_templates import SNIPPETS, ever

LIMITS = Limits(memory_bytes=96 << 20, cpu_ms=300, source_bytes=8 << 20, value_chars=1 << 20, text_bytes=1 << 20)
MESSAGES = [{"role": "user", "content": "hi"}]
LIMIT = re.compile(r"it takes longer than 0\.3 s|it needs too much memory.*|it writes more than 1 MiB")


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    renderer = Renderer(LIMITS)
    yield renderer
    renderer.close()


# Each went past the counting of work that there was, or would do so.
HOSTILE = {
    **SNIPPETS,
    "power": "{{ 10 ** (10 ** 9) }}",
    "a long compilation": "{{ 1 + 1 }}" * 200_000,
    "a deep compilation": "{% if x %}" * 5000 + "{% endif %}" * 5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_meets_a_limit(renderer: Renderer, name: str) -> None:
    with pytest.raises(RenderingError) as caught:
        renderer.render(HOSTILE[name], {"messages": MESSAGES})
    reason = str(caught.value)
    if name != "a deep compilation":  # which Python itself refuses
        assert LIMIT.fullmatch(reason), reason
        assert caught.value.cause is Cause.LIMIT
    assert "\n" not in reason
    assert renderer.render("{{ messages[0].content }}", {"messages": MESSAGES}) == "hi"


def test_what_goes_in_is_limited(renderer: Renderer) -> None:
    with pytest.raises(RenderingError, match="more than 1048576 characters"):
        renderer.render("", {"messages": [{"content": "a" * (1 << 19)}] * 2})
    with pytest.raises(RenderingError, match="it is longer than 8388608 bytes"):
        renderer.check("a" * (9 << 20))
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(RenderingError, match="nested too deeply"):
        renderer.render("", {"messages": nested})
    with pytest.raises(RenderingError, match="not JSON"):
        renderer.render("", {"messages": {1, 2}})


def test_values_arrive_as_they_are(renderer: Renderer) -> None:
    source = "{{ v | tojson }}{{ s }}{{ n is none }}{{ e | tojson }}"
    values = {"v": [1, 2.5, "é", {"a": None}, True], "s": "\ud83dx漢\0😀", "n": None, "e": []}
    assert renderer.render(source, values) == '[1, 2.5, "é", {"a": null}, true]\ud83dx漢\0😀True[]'
    assert renderer.render("", {}) == ""
    year = time.strftime("%Y")
    assert renderer.render("{{ strftime_now('%Y é') }}", {}) in (f"{year} é", f"{int(year) + 1} é")


def test_a_refusal_is_the_templates(renderer: Renderer) -> None:
    for source in ("{{ raise_exception('no') }}", "{% if %}", "{{ a.b.c }}"):
        with pytest.raises(RenderingError) as caught:
            renderer.render(source, {})
        assert caught.value.cause is Cause.TEMPLATE


def children(renderer: Renderer) -> list[int]:
    slots = list(renderer._idle.queue)
    return [slot._process.pid for slot in slots if slot._process is not None]


def gone(pid: int) -> bool:
    """Or about to be: as a zombie of somebody else's."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def alone() -> Iterator[Renderer]:
    """With one process, and time enough."""
    renderer = Renderer(Limits(cpu_ms=60_000), n_processes=1)
    yield renderer
    renderer.close()


def test_one_process_serves_them_all_until_it_dies(alone: Renderer) -> None:
    alone.start()
    (pid,) = children(alone)
    assert alone.render("{{ 1 }}", {}) == "1"
    assert children(alone) == [pid]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gone(pid))
    assert alone.render("{{ 2 }}", {}) == "2"  # nothing was lost
    assert not Path(f"/proc/{pid}").exists()  # no zombie stays
    os.kill(children(alone)[0], signal.SIGTERM)  # for the server, of which a service manager tells all
    assert alone.render("{{ 3 }}", {}) == "3"
    (pid,) = children(alone)
    alone.close()
    assert not Path(f"/proc/{pid}").exists()


class InThread:
    """Renders something endless, and remembers how that ended."""

    def __init__(self, renderer: Renderer, wanted: Cancellation) -> None:
        self.error: RenderingError | None = None
        self._renderer, self._wanted = renderer, wanted
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        cancellation.set(self._wanted)
        try:
            self._renderer.render(ever(""), {})
        except RenderingError as error:
            self.error = error


def busy(pid: int) -> bool:
    """Whether it has computed for a while."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) > 40


def test_a_process_that_dies_at_work_fails_one_rendering(alone: Renderer) -> None:
    alone.start()
    (pid,) = children(alone)
    running = InThread(alone, Cancellation())
    wait_until(lambda: busy(pid))
    os.kill(pid, signal.SIGKILL)
    running.thread.join(30)
    assert running.error is not None
    assert running.error.cause is Cause.PROCESS
    assert "its process was killed" in str(running.error)
    assert alone.render("{{ 2 }}", {}) == "2"
    assert not Path(f"/proc/{pid}").exists()


def test_nobody_need_wait_for_what_nobody_wants(alone: Renderer) -> None:
    alone.start()
    (pid,) = children(alone)
    wanted = Cancellation()
    running = InThread(alone, wanted)
    wait_until(lambda: busy(pid))
    wanted.cancel()
    running.thread.join(30)
    assert running.error is not None
    assert running.error.cause is Cause.PROCESS
    late = InThread(alone, wanted)
    late.thread.join(30)
    assert "nobody waits" in str(late.error)
    assert alone.render("{{ 2 }}", {}) == "2"


def test_a_process_that_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "PATIENCE_S", 0.5)
    renderer = Renderer(n_processes=1)
    renderer.start()
    (pid,) = children(renderer)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RenderingError, match=r"longer than 0\.5 s"):
        renderer.render("{{ 1 }}", {})
    assert not Path(f"/proc/{pid}").exists()
    renderer.close()


def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nothing/here")
    renderer = Renderer()
    renderer.start()  # told later
    with pytest.raises(RenderingError, match="No such file") as caught:
        renderer.render("{{ 1 }}", {})
    assert caught.value.cause is Cause.PROCESS


PARENT = """
import sys
from powerinfer_cli.rendering.renderer import Renderer
renderer = Renderer(n_processes=1)
renderer.render("{{ 1 }}", {})
print(renderer._idle.queue[0]._process.pid, flush=True)
sys.stdin.read()
"""


def test_it_ends_with_its_parent_and_knows_none_of_its_secrets() -> None:
    root = str(Path(__file__).parents[2])
    variables = {**os.environ, "PYTHONPATH": root, "HF_TOKEN": "secret"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent:
        pid = int(parent.stdout.readline())
        assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        parent.kill()
        parent.wait()
    wait_until(lambda: gone(pid))
