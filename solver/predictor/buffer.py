"""What predictors learn from, on the disk: for each layer a file of residuals and one of active sets.

Residuals are float16 at RMS 1 (a predictor does not mind the size), active sets a bit for each neuron. The files grow
chunk by chunk; a small file beside them says how many chunks are whole.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.runtime import LoadEvents
from solver.predictor.samples import Samples, packed_bits, unit_halves
from solver.profile import ActiveRule
from solver.profile.recording import Floats, Recordable, Watcher, record
from solver.profile.text import Chunks

__all__ = ["COLLECTING", "Buffer", "collect", "collecting_beside"]

LEAST_TOKENS = 64
OF_FREE_DISK = 0.8
STATE = "collected.json"
COLLECTING = "collecting"


@dataclass(frozen=True)
class Buffer:
    """Where the files are and what is in them."""

    folder: Path
    n_embd: int
    n_ff: tuple[int, ...]  # of each layer

    @property
    def n_layer(self) -> int:
        return len(self.n_ff)

    @property
    def token_bytes(self) -> int:
        """Of one token in all layers."""
        return sum(2 * self.n_embd + -(-n_ff // 8) for n_ff in self.n_ff)

    def inputs(self, layer: int) -> Path:
        return self.folder / f"inputs_{layer}.f16"

    def active(self, layer: int) -> Path:
        return self.folder / f"active_{layer}.bits"

    def layer(self, number: int) -> Samples:
        """All samples of a layer, in memory. Raises PowerInferError."""
        n_ff = self.n_ff[number]
        try:
            inputs = np.fromfile(self.inputs(number), np.float16).reshape(-1, self.n_embd)
            active = np.fromfile(self.active(number), np.uint8).reshape(len(inputs), -(-n_ff // 8))
        except (OSError, ValueError) as error:
            raise PowerInferError(f"{self.folder}: what was collected there is damaged: delete the folder") from error
        return Samples(torch.from_numpy(inputs), torch.from_numpy(active), n_ff)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def collect(
    config: ModelConfig,
    open_engine: Callable[[], Recordable],
    chunks: Chunks,
    folder: Path,
    rule: ActiveRule,
    made_with: Mapping[str, Any],
    events: LoadEvents,
    *,
    most_bytes: int,
) -> Buffer:
    """Run a text through a model and keep what its layers' predictors would see, in at most `most_bytes`.

    Where not all tokens find room, some are left out, evenly. Interrupted, another call that is `made_with` the same
    goes on after the last whole chunk. Progress is in tokens.

    Raises:
        PowerInferError: no room, on the disk or in `most_bytes`.
    """
    buffer, state = _begun(config, chunks, folder, made_with, events, most_bytes)
    if state["chunks"] == len(chunks):
        return buffer
    if state["chunks"]:
        events.note(f"collecting: going on after chunk {state['chunks']} of {len(chunks)}")
    try:
        with _Growth(buffer, chunks, rule, state) as growth:

            def done(count: int) -> None:
                growth.done(count)
                events.progress(COLLECTING, sum(map(len, chunks[:count])), sum(map(len, chunks)))

            record(open_engine(), chunks, state["chunks"], growth.see, done)
    except OSError as error:
        raise PowerInferError(
            f"{folder}: cannot be written: {error.strerror or error} (the buffer takes "
            f"{_gib(state['wanted'] * buffer.token_bytes)}; a smaller one will do)"
        ) from error
    return buffer


@contextmanager
def collecting_beside(
    config: ModelConfig,
    chunks: Chunks,
    places: Mapping[int, int],
    folder: Path,
    rule: ActiveRule,
    made_with: Mapping[str, Any],
    events: LoadEvents,
    *,
    most_bytes: int,
) -> Iterator[Watcher]:
    """As `collect`, while somebody else reads a text; places: which of these chunks each of its chunks is, by number.

    Chunks that the buffer has are passed over. What is missing after all, `collect` adds: a disk that is full is told
    there.
    """
    buffer, state = _begun(config, chunks, folder, made_with, events, most_bytes)
    with _Growth(buffer, chunks, rule, state) as growth:
        yield _Beside(growth, places)


def _begun(
    config: ModelConfig,
    chunks: Chunks,
    folder: Path,
    made_with: Mapping[str, Any],
    events: LoadEvents,
    most_bytes: int,
) -> tuple[Buffer, dict[str, Any]]:
    """A buffer, and how far it has come."""
    buffer = Buffer(make_folder(folder), config.n_embd, config.n_ff)
    key = json.dumps(dict(made_with), sort_keys=True)
    state = _read_state(buffer, key)
    if state is not None:
        return buffer, state
    tokens = sum(map(len, chunks))
    wanted = _room(buffer, tokens, most_bytes)
    if wanted < tokens:
        events.note(f"collecting {wanted} of {tokens} tokens: {_gib(wanted * buffer.token_bytes)}")
    return buffer, {"key": key, "chunks": 0, "tokens": 0, "wanted": wanted}


def _room(buffer: Buffer, tokens: int, most_bytes: int) -> int:
    """How many tokens to keep."""
    free = int(shutil.disk_usage(buffer.folder).free * OF_FREE_DISK)
    wanted = min(tokens, min(most_bytes, free) // buffer.token_bytes)
    if wanted < min(LEAST_TOKENS, tokens):
        needed = _gib(LEAST_TOKENS * buffer.token_bytes)
        raise PowerInferError(
            f"{buffer.folder}: no room to train predictors: at least {needed} are needed, but the buffer may have "
            f"{_gib(most_bytes)} and the disk has {_gib(free)} to spare"
        )
    return wanted


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def _read_state(buffer: Buffer, key: str) -> dict[str, Any] | None:
    """Of files that were begun for the same, and are as long as they should be; they are cut to whole chunks."""
    try:
        state: dict[str, Any] = json.loads((buffer.folder / STATE).read_text(encoding="utf-8"))
        if state["key"] != key or not state["chunks"]:
            return None
        for layer in range(buffer.n_layer):
            rows = {buffer.inputs(layer): 2 * buffer.n_embd, buffer.active(layer): -(-buffer.n_ff[layer] // 8)}
            for path, row in rows.items():
                if path.stat().st_size < state["tokens"] * row:
                    return None
                with path.open("r+b") as file:
                    file.truncate(state["tokens"] * row)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state


class _Growth:
    """A buffer's files while they grow; open while entered. state: of the whole chunks, which `done` writes."""

    def __init__(self, buffer: Buffer, chunks: Chunks, rule: ActiveRule, state: dict[str, Any]) -> None:
        self.state, self._buffer, self._rule = state, buffer, rule
        self.ends = np.cumsum([0, *map(len, chunks)])
        self._kept = np.diff(np.arange(self.ends[-1] + 1) * state["wanted"] // max(1, self.ends[-1])).astype(bool)
        self._files: list[tuple[IO[Any], IO[Any]]] = []
        self._open = ExitStack()

    def __enter__(self) -> "_Growth":
        mode, opened, buffer = "ab" if self.state["chunks"] else "wb", self._open.enter_context, self._buffer
        for layer in range(buffer.n_layer):
            paths = buffer.inputs(layer), buffer.active(layer)
            self._files.append((opened(paths[0].open(mode)), opened(paths[1].open(mode))))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def see(self, at: int, layer: int, residual: Floats, activations: Floats) -> None:
        """at: the first token's number among those of all chunks."""
        chosen = self._kept[at : at + len(residual)]
        inputs, active = self._files[layer]
        inputs.write(unit_halves(residual[chosen]).tobytes())
        active.write(packed_bits(self._rule.mask(activations[chosen])).tobytes())

    def done(self, count: int) -> None:
        """So many chunks are whole."""
        for pair in self._files:
            for file in pair:
                file.flush()
        self.state.update(chunks=count, tokens=int(self._kept[: self.ends[count]].sum()))
        with replacing(self._buffer.folder / STATE) as temporary:
            temporary.write_text(json.dumps(self.state), encoding="utf-8")


class _Beside:
    """What is collected while others read."""

    def __init__(self, growth: _Growth, places: Mapping[int, int]) -> None:
        self._growth, self._places, self._full = growth, places, False

    def see(self, number: int, within: int, layer: int, residual: Floats, activations: Floats) -> None:
        if self._wants(number):
            try:
                at = int(self._growth.ends[self._places[number]]) + within
                self._growth.see(at, layer, residual, activations)
            except OSError:
                self._full = True

    def done(self, number: int) -> None:
        if self._wants(number):
            try:
                self._growth.done(self._places[number] + 1)
            except OSError:
                self._full = True

    def _wants(self, number: int) -> bool:
        """Whether a chunk is the next one: files have no gaps."""
        return not self._full and self._places.get(number) == self._growth.state["chunks"]
