"""Profiling: which neurons were active how often while a text ran through a model."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.number_files import load_arrays
from powerinfer_cli.placement import FiringTrace, save_firing, save_statistics, traced_tokens
from powerinfer_cli.placement.group_activity import group_activity, save_group_activity
from powerinfer_cli.runtime import LoadEvents
from solver.profile.active import ActiveRule
from solver.profile.recording import Floats, Recordable, Watcher, record
from solver.profile.text import Chunks

__all__ = ["Profile", "count_active", "made_of", "profile_text"]

SAMPLED = 256  # tokens whose active sets are kept for the groups' covariance
SAVE_SECONDS = 2.0  # between two savings of what is done so far
PARTIAL = "profile-partial.npz"
OVERHEAD = 1 << 20  # bytes of that file besides its numbers


def count_active(activations: Tensor) -> Tensor:
    """How often each neuron was active (not 0) over activations [..., n_ff]; int64 [n_ff]."""
    return (activations != 0).flatten(0, -2).sum(dim=0, dtype=torch.int64)


@dataclass
class Profile:
    """Counts of active neurons by layer, over any number of batches."""

    tokens: int = 0
    counts: list[Tensor] = field(default_factory=list)

    def add(self, activations: list[Tensor]) -> None:
        """Count one batch: for each layer the activations [tokens, n_ff]. Every layer must see the same tokens."""
        if len({len(layer) for layer in activations}) != 1:
            raise ValueError("every layer must have the same number of tokens")
        fresh = [count_active(layer).cpu() for layer in activations]
        if self.counts and len(self.counts) != len(fresh):
            raise ValueError(f"{len(fresh)} layers after {len(self.counts)}")
        self.counts = [old + new for old, new in zip(self.counts, fresh, strict=True)] if self.counts else fresh
        self.tokens += len(activations[0])

    def density(self) -> list[float]:
        """Mean share of active neurons per layer, 0..1."""
        return [counts.sum().item() / max(1, self.tokens * counts.numel()) for counts in self.counts]


def made_of(chunks: Chunks) -> str:
    """A digest of a text's tokens and of how they were cut."""
    digest = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        digest.update(np.array([len(chunk), *chunk], np.int64).tobytes())
    return digest.hexdigest()


@dataclass
class _Tally:
    """counts int64 [layers, n_ff] so far; bits uint8 [layers, samples, bytes]: active sets of some tokens; trace
    [layers, tokens, bytes]: of the text's last tokens.

    They have room for the widest layer.
    """

    counts: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint8]
    trace: npt.NDArray[np.uint8]
    done: int = 0  # chunks

    @classmethod
    def empty(cls, n_ff: Sequence[int], samples: int, traced: int) -> "_Tally":
        layers, widest = len(n_ff), max(n_ff)
        bits, trace = (np.zeros((layers, count, -(-widest // 8)), np.uint8) for count in (samples, traced))
        return cls(np.zeros((layers, widest), np.int64), bits, trace)

    @property
    def n_bytes(self) -> int:
        return self.counts.nbytes + self.bits.nbytes + self.trace.nbytes


def profile_text(
    config: ModelConfig,
    open_engine: Callable[[], Recordable],
    chunks: Chunks,
    folder: Path,
    work: Path,
    rule: ActiveRule,
    made_with: Mapping[str, Any],
    events: LoadEvents,
    beside: Callable[[], AbstractContextManager[Watcher]] | None = None,
) -> Profile:
    """Count active neurons over a text, and write `activation/`, the trace of its last tokens and, where layers are
    alike, the groups' activity.

    What is done so far is kept in `work`, also when this is interrupted: another call that is `made_with` the same
    goes on there. beside: opens who sees the same. Progress is in tokens. Raises PowerInferError.
    """
    n_ff = config.n_ff
    tokens = sum(map(len, chunks))
    stride = max(1, tokens // SAMPLED)
    key = json.dumps(dict(made_with), sort_keys=True)
    tally = _resume(
        make_folder(work) / PARTIAL, _Tally.empty(n_ff, -(-tokens // stride), traced_tokens(n_ff, tokens)), key
    )
    if tally.done:
        events.note(f"profile: going on after chunk {tally.done} of {len(chunks)}")
    with beside() if beside and tally.done < len(chunks) else nullcontext() as watcher:
        _count(open_engine(), chunks, tally, rule, stride, work / PARTIAL, key, events, watcher)
    counts = [layer[:n] for layer, n in zip(tally.counts, n_ff, strict=True)]
    make_folder(folder)
    traced = tuple(layer[:, : -(-n // 8)] for layer, n in zip(tally.trace, n_ff, strict=True))
    save_firing(folder, FiringTrace(tuple(n_ff), traced, str(made_with.get("model", ""))))
    if len(set(n_ff)) == 1:  # groups are the same in all layers
        active = [np.unpackbits(bits, axis=1, count=n_ff[0], bitorder="little").astype(bool) for bits in tally.bits]
        save_group_activity(folder, group_activity(tally.counts, active, tokens))
    save_statistics(folder / "activation", counts)  # the last: by these the others count as made
    with suppress(OSError):
        (work / PARTIAL).unlink()
    return Profile(tokens, [torch.from_numpy(layer) for layer in counts])


def _count(
    engine: Recordable,
    chunks: Chunks,
    tally: _Tally,
    rule: ActiveRule,
    stride: int,
    partial: Path,
    key: str,
    events: LoadEvents,
    watcher: Watcher | None,
) -> None:
    """Add the chunks that are not yet counted. A chunk counts when it is whole: only then is it kept."""
    tokens, started = [len(chunk) for chunk in chunks], tally.done
    untraced = sum(tokens) - tally.trace.shape[1]
    fresh = np.zeros_like(tally.counts)
    saved = time.monotonic()

    def see(at: int, layer: int, residual: Floats, activations: Floats) -> None:
        if watcher is not None:
            watcher.see(tally.done, at - sum(tokens[: tally.done]), layer, residual, activations)
        mask = rule.mask(activations)
        fresh[layer, : mask.shape[1]] += mask.sum(axis=0)
        first = -at % stride
        chosen = mask[first::stride]
        if len(chosen):
            row = (at + first) // stride
            bits = np.packbits(chosen, axis=1, bitorder="little")
            tally.bits[layer, row : row + len(chosen), : bits.shape[1]] = bits
        last = mask[max(0, untraced - at) :]
        if len(last):
            row, bits = max(0, at - untraced), np.packbits(last, axis=1, bitorder="little")
            tally.trace[layer, row : row + len(last), : bits.shape[1]] = bits

    def done(count: int) -> None:
        nonlocal saved
        tally.counts += fresh
        fresh[:] = 0
        tally.done = count
        if watcher is not None:
            watcher.done(count - 1)
        events.progress("profile", sum(tokens[:count]), sum(tokens))
        if time.monotonic() - saved > SAVE_SECONDS:
            _save(partial, tally, key)
            saved = time.monotonic()

    try:
        record(engine, chunks, started, see, done)
    except BaseException:  # Ctrl-C too: what is done is kept
        if tally.done > started:
            _save(partial, tally, key)
        raise


def _save(path: Path, tally: _Tally, key: str) -> None:
    with replacing(path) as temporary, temporary.open("wb") as out:
        np.savez(
            out,
            key=np.array(key),
            counts=tally.counts,
            bits=tally.bits,
            trace=tally.trace,
            done=np.int64(tally.done),
        )


def _resume(path: Path, empty: _Tally, key: str) -> _Tally:
    """What an interrupted call has left, if it was made of the same."""
    try:
        file = load_arrays(
            path, ("key", "counts", "bits", "trace", "done"), empty.n_bytes + OVERHEAD, "a part of a profile"
        )
    except PowerInferError:
        return empty
    key_found, counts, bits, trace, done = file.values()
    wanted = [(one.shape, one.dtype) for one in (empty.counts, empty.bits, empty.trace)]
    fits = [(one.shape, one.dtype) for one in (counts, bits, trace)] == wanted and done.shape == ()
    if str(key_found) != key or not fits or done.dtype.kind != "i" or done < 0:
        return empty
    return _Tally(counts, bits, trace, int(done))
