"""What a few tokens ask of devices is recorded once for each count, and serves any of any sequences, to the bit.

Where there is no GPU a tape of what torch was asked for stands in for a graph: it repeats that with the same tensors,
and Python is not asked again. On a GPU real graphs are held against the work as it is.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from powerinfer_cli.kernels.few import ONE_BY_ONE
from powerinfer_cli.model import load_model
from powerinfer_cli.placement import HeatRule, LayerPlacement, Placement, Plan
from powerinfer_cli.runtime import Engine, EngineOptions, Piece, Wanted
from powerinfer_cli.runtime.device.link import Recorder, Replay
from tests.helpers.dispatch import DispatchMode
from tests.helpers.families import tiny_family
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.devices import DEVICES
from tests.helpers.tiny_models import N_VOCAB, tiny_model

SEQUENCES = 4
REHEARSED = DEVICES[0] == "cpu"
COUNTS = range(2, ONE_BY_ONE + 1)
RULE = HeatRule(half_life=6, margin=0.1, uploads=2, neurons=8)
ASKS_BACK = {torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default}


class Tape(DispatchMode):
    """A graph's stand-in."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in ASKS_BACK
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        for func, args, kwargs, found in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def taped(_: Recorder, replay: Replay) -> None:
    with Tape() as tape:
        replay.run()
    replay.graph = tape  # type: ignore[assignment]  # it stands in for one


def as_it_is(_: Recorder, replay: Replay) -> None:
    replay.run()


def sparse() -> ModelFile:
    tiny = tiny_model("llama-relu")
    return tiny.file.first_layers(2).sparsified(random_predictors(tiny)[:2])


def engine_of(file: ModelFile, folder: Path, rule: HeatRule | None, pages: int | None) -> Engine:
    """Half of what can be divided is cold. pages: of each layer's cache on the device."""
    model, layers = load_model(file.open(folder)), []
    for layer in model.layers:
        n = layer.ffn.n_groups
        hot = np.arange(n // 2 if layer.ffn.divisible else 0, n, dtype=np.int32)
        layers.append(LayerPlacement(0, hot, pages=pages if layer.attention.n_head else None))
    placement = Placement(Plan((1 << 30,), tuple(layers), 0, "layers", ""), DEVICES[:1], adaptive=rule)
    usual = EngineOptions(n_ctx=128 * SEQUENCES, n_sequences=SEQUENCES, n_threads=1, type_k="f32", type_v="f32")
    return Engine(model, replace(usual, drafting=True), placement=placement)


def some_steps() -> Iterator[list[Piece]]:
    """Of each count: all of one sequence, divided among several, and of others again."""
    random = np.random.default_rng(4)

    def piece(sequence: int, n: int) -> Piece:
        return Piece(sequence, random.integers(0, N_VOCAB, n).tolist(), Wanted.ALL, stepwise=True)

    yield [Piece(i, [3 + i, 4, 5], Wanted.ALL) for i in range(SEQUENCES)]
    for n in COUNTS:
        yield [piece(n % SEQUENCES, n)]
    for n in COUNTS:
        shares = [len(part) for part in np.array_split(range(n), min(n, 3))]
        yield [piece((n + i + 1) % SEQUENCES, share) for i, share in enumerate(shares)]
    yield [piece(0, 2), piece(3, 1)]


def run(engine: Engine, *, singly: bool = False) -> list[np.ndarray]:
    told = []
    for pieces in some_steps():
        if singly and pieces[0].stepwise:
            for piece in pieces:
                ones = [engine.step([Piece(piece.sequence, [token], Wanted.ALL)])[0] for token in piece.ids]
                told.append(np.concatenate([one for one in ones if one is not None]))
        else:
            told += [answer for answer in engine.step(pieces) if answer is not None]
    return told


@pytest.mark.parametrize(
    ("name", "rule", "pages"),
    [
        ("sparse", None, None),
        ("sparse", RULE, None),
        ("qwen3moe", RULE, None),
        ("gpt-oss", None, 2),  # windows, sinks; sequences' pages on either side
        ("qwen35", None, None),  # states
    ],
)
def test_replayed_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rule: HeatRule | None, pages: int | None
) -> None:
    file = sparse() if name == "sparse" else tiny_family(name).file
    plain = engine_of(file, tmp_path, rule, pages)
    wanted = run(plain)
    if rule is pages is None and REHEARSED:  # with a rule, what lies where depends on steps
        single = run(engine_of(file, tmp_path, rule, pages), singly=True)
        for one, other in zip(single, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=0 if name == "sparse" else 1e-5)
    runs: list[Replay] = []
    instead = taped if REHEARSED else as_it_is
    monkeypatch.setattr(Recorder, "run", lambda self, one: (instead(self, one), runs.append(one))[0])
    replaying = engine_of(file, tmp_path, rule, pages)
    for one, other in zip(run(replaying), wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(replaying.stats.counts, plain.stats.counts)
    assert replaying.stats.uploads == plain.stats.uploads
    assert (plain.stats.uploads > 0) is (rule is not None)
    assert len(set(runs)) >= len(COUNTS)
    assert (len(set(runs)) == len(runs)) is REHEARSED  # each but once
