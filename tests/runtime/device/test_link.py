"""What recording asks of CUDA, told by a stand-in for it: there is no GPU here."""

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime.device import link
from powerinfer_cli.runtime.device.memory import told_when_full


class FakeCUDA:
    """Remembers which stream each graph was recorded on."""

    def __init__(self) -> None:
        self.recorded: list[tuple[object, object]] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def wait_stream(self, other: object) -> None:
            pass

    class CUDAGraph:
        replays = 0

        def pool(self) -> object:
            return self

        def replay(self) -> None:
            self.replays += 1

    @contextmanager
    def device(self, device: torch.device) -> Any:
        yield

    @contextmanager
    def stream(self, stream: object) -> Any:
        yield

    def current_stream(self) -> Any:
        return self.Stream(torch.device("cuda:0"))

    @contextmanager
    def graph(self, graph: object, pool: object, stream: object, capture_error_mode: str) -> Any:
        self.recorded.append((stream, pool))
        yield


def test_every_device_records_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCUDA()
    monkeypatch.setattr(link.torch, "cuda", fake)
    runs: list[int] = []
    for number in range(2):
        device = torch.device(f"cuda:{number}")
        recorder = link.Recorder(device)
        for _ in range(2):
            replay = link.Replay(recorder, [lambda number=number: runs.append(number)])
            replay()
            assert replay.graph is not None
            assert replay.graph.replays == 0  # type: ignore[attr-defined]  # it was done as it is
            replay()
            assert replay.graph.replays == 1  # type: ignore[attr-defined]
    streams, pools = zip(*fake.recorded, strict=True)
    assert [stream.device.index for stream in streams] == [0, 0, 1, 1]  # type: ignore[attr-defined]
    assert [pool is None for pool in pools] == [True, False, True, False]
    assert runs == [0, 0, 0, 0, 1, 1, 1, 1]  # each once to do it, and compile; once to record


def test_a_full_gpu_is_one_line() -> None:
    with (
        pytest.raises(PowerInferError, match=r"cuda:1: 3\.00 GiB do not hold"),
        told_when_full(torch.device("cuda:1"), 3 << 30),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
