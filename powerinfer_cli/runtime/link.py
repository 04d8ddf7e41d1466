"""Between main memory and one device: pinned buffers, copies that nobody waits for, and waits, which are counted."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Link", "Replay", "keep_budget"]


class Link:
    """One device's way to main memory. On "cpu", where hybrid logic is rehearsed, waits are counted only."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.waits = 0
        self._cuda = device.type == "cuda"
        self._event = torch.cuda.Event() if self._cuda else None  # type: ignore[no-untyped-call]

    def host(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Zeros in main memory, which the device can reach by itself."""
        return torch.zeros(shape, dtype=dtype, pin_memory=self._cuda)

    @staticmethod
    def copy(target: Tensor, source: Tensor) -> None:
        """In the device's order; both contiguous. Who reads `target` in main memory, waits first."""
        target.copy_(source, non_blocking=True)

    def mark(self) -> None:
        """Remember this point of the device's work."""
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(self.device))

    def wait(self) -> None:
        """Until the device has come to the mark."""
        self.waits += 1
        if self._event is not None:
            self._event.synchronize()


class Replay:
    """Work on one device that is the same for every token: on CUDA a graph, which costs one launch.

    `record` runs the work once or twice, so it is called before anything that the work changes is of use.
    """

    def __init__(self, device: torch.device, work: Sequence[Callable[[], None]]) -> None:
        self.device, self._work = device, work
        self._graph: torch.cuda.CUDAGraph | None = None

    def record(self, pool: "tuple[int, int] | None" = None) -> "tuple[int, int] | None":
        """Make the graph. Its memory is from `pool`, or a new one; it is returned, for what runs after it to share."""
        if self.device.type != "cuda":
            return None
        with torch.cuda.device(self.device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._run()  # compiles kernels, which must not happen while recording
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):  # type: ignore[arg-type]
                self._run()
        self._graph = graph
        return graph.pool()

    def __call__(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        else:
            self._run()

    def _run(self) -> None:
        for piece in self._work:
            piece()


def keep_budget(device: torch.device, budget: int) -> None:
    """From now on torch takes no more of a GPU than so many bytes: it frees what it has kept, or says there is none."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total), device)
