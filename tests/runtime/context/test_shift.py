"""Dropping tokens from the middle of a context: what follows moves down, its keys turned back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.model import RopeStyle
from powerinfer_cli.runtime import Engine
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import CASES, N_VOCAB, PROMPT, reference_logits, tiny_model

ROTARY = [name for name in CASES if name != "opt"]


@pytest.mark.parametrize("name", ROTARY)
@pytest.mark.parametrize(("n_keep", "n_discard"), [(0, 5), (4, 7), (3, 1), (20, 3)])
def test_one_layer_equals_evaluating_what_is_left(tmp_path: Path, name: str, n_keep: int, n_discard: int) -> None:
    """In the first layer keys and values depend on their own token and position alone."""
    file = tiny_model(name).file.first_layers(1)
    engine = file.engine(tmp_path)
    engine.prefill(PROMPT)
    engine.shift(n_keep, n_discard)
    left = PROMPT[:n_keep] + PROMPT[n_keep + n_discard :]
    assert engine.n_past == len(left)
    shifted = np.stack([engine.decode(11), engine.prefill([12, 13])])
    fresh = file.engine(tmp_path)
    fresh.prefill(left)
    wanted = np.stack([fresh.decode(11), fresh.prefill([12, 13])])
    check_logits(shifted, wanted)


def turned_back(keys: torch.Tensor, by: int, engine: Engine) -> torch.Tensor:
    """Keys [N, H, D] turned back by that many positions, pair by pair, as complex numbers."""
    ((rope, frequencies),) = engine._backend._frequencies.items()
    interleaved = rope.style is RopeStyle.INTERLEAVED
    pairs = keys.unflatten(-1, (-1, 2)) if interleaved else keys.unflatten(-1, (2, -1)).transpose(-1, -2)
    turn = torch.polar(torch.ones_like(frequencies), -by * frequencies)
    turned = torch.view_as_real(torch.view_as_complex(pairs.double().contiguous()) * turn)
    return (turned if interleaved else turned.transpose(-1, -2)).flatten(-2).float()


@pytest.mark.parametrize("name", ["llama-llama3", "llama-yarn-tuned", "qwen3", "falcon-40b"])
def test_every_layer_moves(tmp_path: Path, name: str) -> None:
    engine = tiny_model(name).file.engine(tmp_path, reference=True)
    engine.prefill(PROMPT)
    cache, n = engine._backend.cache, len(PROMPT)
    keys, values = ([part[:n].clone() for part in parts] for parts in (cache.k, cache.v))
    engine.shift(4, 6)
    for layer in range(2):
        wanted = torch.cat([keys[layer][:4], turned_back(keys[layer][10:], 6, engine)])
        torch.testing.assert_close(cache.k[layer][: n - 6], wanted, rtol=0, atol=1e-5)
        assert torch.equal(cache.v[layer][: n - 6], torch.cat([values[layer][:4], values[layer][10:]]))


def test_learned_positions_are_evaluated_anew(tmp_path: Path) -> None:
    opt = tiny_model("opt")
    engine = opt.file.engine(tmp_path, n_batch=5)
    engine.prefill(PROMPT)
    engine.shift(3, 8)
    left = [*PROMPT[:3], *PROMPT[11:], 42]
    wanted = reference_logits(opt.torch_model, left)[-1]
    check_logits(engine.decode(42), wanted)
    assert engine.n_past == len(left)


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_shifting_everything_or_nothing(tmp_path: Path, name: str) -> None:
    tiny = tiny_model(name)
    engine = tiny.file.engine(tmp_path)
    engine.prefill(PROMPT[:10])
    engine.shift(10, 0)
    check_logits(engine.decode(PROMPT[10]), tiny.reference[10])
    engine.shift(0, 11)
    assert engine.n_past == 0
    check_logits(engine.prefill(PROMPT), tiny.reference[-1])


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_a_full_context_goes_on_after_a_shift(tmp_path: Path, name: str) -> None:
    engine = tiny_model(name).file.engine(tmp_path, n_ctx=16)
    engine.prefill(PROMPT[:16])
    for step in range(40):
        if engine.n_past == engine.n_ctx:
            engine.shift(4, 6)
        logits = engine.decode(step % N_VOCAB)
    assert np.isfinite(logits).all()
    assert engine.n_past <= 16


@pytest.mark.parametrize("arguments", [(-1, 2), (0, -1), (5, 6), (11, 0)])
def test_positions_that_are_not_there(tmp_path: Path, arguments: tuple[int, int]) -> None:
    engine = tiny_model("llama").file.engine(tmp_path)
    engine.prefill(PROMPT[:10])
    with pytest.raises(ValueError, match="cannot drop"):
        engine.shift(*arguments)
    assert engine.n_past == 10
