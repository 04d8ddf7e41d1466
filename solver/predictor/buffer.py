"""What predictors learn from, on the disk: for each layer a file of residuals and one of active sets.

Residuals are float16 at RMS 1 (a predictor does not mind the size), active sets a bit for each neuron. The files grow
chunk by chunk; a small file beside them says how many chunks are whole.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.runtime import LoadEvents
from solver.predictor.samples import Samples
from solver.profile import ActiveRule
from solver.profile.recording import Floats, Recordable, record
from solver.profile.text import Chunks

__all__ = ["Buffer", "collect"]

LEAST_TOKENS = 64
OF_FREE_DISK = 0.8
STATE = "collected.json"


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
    buffer = Buffer(make_folder(folder), config.n_embd, config.n_ff)
    key = json.dumps(dict(made_with), sort_keys=True)
    state = _read_state(buffer, key)
    tokens = sum(map(len, chunks))
    if state is None:
        state = {"key": key, "chunks": 0, "tokens": 0, "wanted": _room(buffer, tokens, most_bytes)}
    if state["chunks"] == len(chunks):
        return buffer
    if state["wanted"] < tokens and not state["chunks"]:
        events.note(f"collecting {state['wanted']} of {tokens} tokens: {_gib(state['wanted'] * buffer.token_bytes)}")
    if state["chunks"]:
        events.note(f"collecting: going on after chunk {state['chunks']} of {len(chunks)}")
    try:
        _collect(open_engine(), chunks, buffer, rule, state, events)
    except OSError as error:
        raise PowerInferError(
            f"{folder}: cannot be written: {error.strerror or error} (the buffer takes "
            f"{_gib(state['wanted'] * buffer.token_bytes)}; a smaller one will do)"
        ) from error
    return buffer


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


def _collect(
    engine: Recordable, chunks: Chunks, buffer: Buffer, rule: ActiveRule, state: dict[str, Any], events: LoadEvents
) -> None:
    tokens = sum(map(len, chunks))
    kept = np.diff(np.arange(tokens + 1) * state["wanted"] // tokens).astype(bool)
    mode = "ab" if state["chunks"] else "wb"
    with ExitStack() as stack:
        files: list[tuple[IO[Any], IO[Any]]] = [
            (stack.enter_context(buffer.inputs(i).open(mode)), stack.enter_context(buffer.active(i).open(mode)))
            for i in range(buffer.n_layer)
        ]

        def see(at: int, layer: int, residual: Floats, activations: Floats) -> None:
            chosen = kept[at : at + len(residual)]
            x = residual[chosen]
            size = np.sqrt(np.square(x, dtype=np.float64).mean(axis=1, keepdims=True))
            files[layer][0].write((x / np.maximum(size, 1e-12)).astype(np.float16).tobytes())
            files[layer][1].write(np.packbits(rule.mask(activations[chosen]), axis=1, bitorder="little").tobytes())

        def done(count: int) -> None:
            for pair in files:
                for file in pair:
                    file.flush()
            seen = sum(len(chunk) for chunk in chunks[:count])
            state.update(chunks=count, tokens=int(kept[:seen].sum()))
            with replacing(buffer.folder / STATE) as temporary:
                temporary.write_text(json.dumps(state), encoding="utf-8")
            events.progress("collecting", seen, tokens)

        record(engine, chunks, state["chunks"], see, done)
