"""Firing traces, and their file, which others may have made."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.placement import FiringTrace, find_firing, load_firing, save_firing, traced_tokens

N_FF = 21, 8
FIRED = [np.random.default_rng(layer).random((5, n)) < 0.3 for layer, n in enumerate(N_FF)]
TRACE = FiringTrace(N_FF, tuple(np.packbits(one, axis=1, bitorder="little") for one in FIRED), "0123")


def test_it_comes_back(tmp_path: Path) -> None:
    assert find_firing(tmp_path) is None
    save_firing(tmp_path / "beside", TRACE)
    path = find_firing(tmp_path / "beside")
    assert path is not None
    found = load_firing(path, N_FF)
    assert (found.tokens, found.n_ff, found.model) == (5, N_FF, "0123")
    for layer, fired in enumerate(FIRED):
        np.testing.assert_array_equal(found.fired(layer), fired)


@pytest.mark.parametrize("n_ff", [(21,), (21, 9), (8, 21)])
def test_of_another_model(tmp_path: Path, n_ff: tuple[int, ...]) -> None:
    save_firing(tmp_path, TRACE)
    with pytest.raises(PowerInferError, match=r"firing\.npz: a firing trace of another model"):
        load_firing(tmp_path / "firing.npz", n_ff)


HOSTILE = {
    "floats": {"bits": np.zeros((5, 4))},
    "too few": {"bits": np.zeros((5, 3), np.uint8)},
    "no tokens": {"bits": np.zeros((0, 4), np.uint8)},
    "a cube": {"bits": np.zeros((5, 4, 1), np.uint8)},
    "several models": {"model": np.array(["0", "1"])},
    "a table": {"n_ff": np.array([N_FF], np.int32)},
    "of other numbers": {"n_ff": np.array(N_FF, np.float32)},
}


@pytest.mark.parametrize("damage", HOSTILE)
def test_a_hostile_file_is_one_line(tmp_path: Path, damage: str) -> None:
    save_firing(tmp_path, TRACE)
    path = tmp_path / "firing.npz"
    with np.load(path) as file:
        np.savez(path, **(dict(file) | HOSTILE[damage]))
    with pytest.raises(PowerInferError, match=r"firing\.npz: not a firing trace") as caught:
        load_firing(path, N_FF)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bits", [(), (TRACE.bits[0],), (TRACE.bits[0], TRACE.bits[1][:4]), (TRACE.bits[1],) * 2])
def test_no_trace(bits: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(ValueError, match="not "):
        FiringTrace(N_FF, bits)


def test_as_many_tokens_as_its_bytes_allow() -> None:
    assert traced_tokens(N_FF, 5) == 5
    assert traced_tokens(N_FF, 50_000) == 1024
    assert traced_tokens((28672,) * 80, 50_000) == 117
