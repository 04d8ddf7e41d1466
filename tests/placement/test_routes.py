"""Route traces, and their file, which others may have made."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.placement import RouteTrace, find_routes, load_routes, save_routes

CHOSEN = np.array([[0, 2], [1, 3], [0, 3]], np.uint8), np.array([[299], [0], [7]], np.uint16)
TRACE = RouteTrace((1, 4), (4, 300), CHOSEN, "0123")
SIZES = {1: 4, 4: 300}


def test_it_comes_back(tmp_path: Path) -> None:
    assert find_routes(tmp_path) is None
    save_routes(tmp_path / "beside", TRACE)
    path = find_routes(tmp_path / "beside")
    assert path is not None
    found = load_routes(path, SIZES)
    assert (found.layers, found.n_experts, found.n_chosen, found.model) == ((1, 4), (4, 300), (2, 1), "0123")
    for one, other in zip(found.chosen, CHOSEN, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.tokens == 3
    assert [counts.sum() for counts in found.counts()] == [6, 3]
    assert found.counts()[0].tolist() == [2, 1, 1, 2]


@pytest.mark.parametrize("sizes", [{1: 4}, {1: 4, 4: 301}, {0: 4, 4: 300}])
def test_of_another_model(tmp_path: Path, sizes: dict[int, int]) -> None:
    save_routes(tmp_path, TRACE)
    with pytest.raises(PowerInferError, match=r"routes\.npz: a route trace of another model"):
        load_routes(tmp_path / "routes.npz", sizes)


HOSTILE = {
    "an expert beyond them": {"chosen": np.array([[0, 4, 1]], np.uint8)},
    "one twice": {"chosen": np.array([[2, 2, 1]], np.uint8)},
    "floats": {"chosen": np.zeros((3, 3), np.float32)},
    "negative": {"chosen": np.full((3, 3), -1, np.int8)},
    "no tokens": {"chosen": np.zeros((0, 3), np.uint8)},
    "too few": {"chosen": np.zeros((3, 2), np.uint8)},
    "more than there are": {"n_chosen": np.array([2, 301], np.int32)},
    "none": {"n_chosen": np.array([0, 3], np.int32)},
    "huge": {"n_experts": np.array([4, 2**31 - 1], np.int32)},
    "a sum that wraps": {"n_experts": np.full(2, 2**31 - 1, np.int32), "n_chosen": np.full(2, 2**30, np.int32)},
    "layers twice": {"layers": np.array([1, 1], np.int32)},
    "a layer below 0": {"layers": np.array([-1, 1], np.int32)},
    "of other lengths": {"layers": np.array([1], np.int32)},
    "no layer": dict.fromkeys(("layers", "n_experts", "n_chosen"), np.zeros(0, np.int32)),
    "a table": {"layers": np.zeros((2, 2), np.int32)},
    "several models": {"model": np.array(["0", "1"])},
}


@pytest.mark.parametrize("damage", HOSTILE)
def test_a_hostile_file_is_one_line(tmp_path: Path, damage: str) -> None:
    save_routes(tmp_path, TRACE)
    path = tmp_path / "routes.npz"
    with np.load(path) as file:
        np.savez(path, **(dict(file) | HOSTILE[damage]))
    with pytest.raises(PowerInferError, match=r"routes\.npz: not a route trace") as caught:
        load_routes(path, SIZES)
    assert "\n" not in str(caught.value)
