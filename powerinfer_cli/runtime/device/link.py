"""Between main memory and one device: pinned buffers, copies that nobody waits for, and waits, which are counted."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["Link", "Recorder", "Replay", "make_event", "make_stream"]


def make_event(device: torch.device) -> torch.cuda.Event | None:
    """None where nothing needs one."""
    return torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch leaves it so


def make_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A device's own; None where nothing needs one."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch leaves it so


class Link:
    """One device's way to main memory. On "cpu", where hybrid logic is rehearsed, waits are counted only. On "mps"
    copies are waited for at once: nothing promises that buffers in main memory stay as they are until then.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.waits = 0
        self._cuda = device.type == "cuda"
        self._event, self._sent = make_event(device), make_event(device)
        self._mark = torch.mps.Event() if device.type == "mps" else None

    def current(self) -> AbstractContextManager[Any]:
        """While entered, kernels are launched on this device."""
        return torch.cuda.device(self.device) if self._cuda else nullcontext()

    def host(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Zeros in main memory, which the device can reach by itself."""
        return torch.zeros(shape, dtype=dtype, pin_memory=self._cuda)

    @staticmethod
    def copy(target: Tensor, source: Tensor) -> None:
        """In the device's order; both contiguous. Who reads `target` in main memory, waits first."""
        target.copy_(source, non_blocking=target.is_cuda or source.is_cuda)

    def send(self, target: Tensor, host: Tensor, values: Tensor) -> None:
        """target = values, by way of a buffer that `host` made. It is not written to before its last copy is done."""
        if self._sent is not None:
            self._sent.synchronize()
        host.copy_(values)
        self.copy(target, host)
        if self._sent is not None:
            self._sent.record(torch.cuda.current_stream(self.device))

    def mark(self) -> None:
        """Remember this point of the device's work."""
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(self.device))
        if self._mark is not None:
            self._mark.record()

    def wait(self) -> None:
        """Until the device has come to the mark."""
        self.waits += 1
        if self._event is not None:
            self._event.synchronize()
        if self._mark is not None:
            self._mark.synchronize()


class Replay:
    """Work on one device that is the same for every step of so many tokens: on CUDA a graph, which costs one launch. It
    is recorded when it is done for the first time.
    """

    def __init__(self, recorder: "Recorder", work: Sequence[Callable[[], object]]) -> None:
        self._recorder, self._work = recorder, work
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.graph is not None:
            self.graph.replay()
        else:
            self._recorder.run(self)

    def run(self) -> None:
        """As it is, without a graph."""
        for piece in self._work:
            piece()


class Recorder:
    """Makes graphs on one device, which share memory: they run one after the other.

    The stream is this device's own: torch's is made once for the process, on whatever device was first.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = make_stream(device)
        self._pool: Any = None

    def run(self, replay: Replay) -> None:
        """Do the work, and on CUDA make a graph of it: that repeats it later, and does nothing now."""
        if self._stream is None:
            replay.run()
            return
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                replay.run()  # compiles kernels, too, which must not happen while recording
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on with devices of theirs meanwhile.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                replay.run()
            self._pool = graph.pool()
        replay.graph = graph
