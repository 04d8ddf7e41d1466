"""The file that says of how many tokens counts are, and how neurons fire together."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.placement import load_statistics, save_statistics
from powerinfer_cli.placement.group_activity import group_activity, load_group_activity, save_group_activity

COUNTS = np.array([[100, 50, 0, 7], [1, 2, 3, 4]], np.int64)
SAMPLES = [np.random.default_rng(i).random((40, 4)) < 0.5 for i in range(2)]


def saved(folder: Path) -> Path:
    save_statistics(folder / "activation", list(COUNTS))
    save_group_activity(folder, group_activity(COUNTS, SAMPLES, 20000))
    return folder / "activation.npz"


def test_the_number_of_tokens_decides_what_is_always_active(tmp_path: Path) -> None:
    saved(tmp_path)
    known = load_statistics(tmp_path / "activation", [4] * 2)
    assert known.tokens == 20000
    activity = known.activity(0)
    assert activity is not None
    assert not activity.always.any(), "100 of 20000 is the most, but not always"
    assert activity.undecided.tolist() == [0, 1, 3]


def test_without_it_the_largest_count_stands_for_it(tmp_path: Path) -> None:
    saved(tmp_path).unlink()
    unknown = load_statistics(tmp_path / "activation", [4] * 2)
    assert unknown.tokens is None
    assert unknown.activity(0) is None, "100 tokens are too few to tell"


def test_of_other_counts_it_is_left_alone(tmp_path: Path) -> None:
    saved(tmp_path)
    assert load_group_activity(tmp_path, [row + 1.0 for row in COUNTS]) is None
    save_statistics(tmp_path / "activation", list(COUNTS + 1))
    assert load_statistics(tmp_path / "activation", [4] * 2).tokens is None


def test_no_neuron_is_active_more_often_than_there_were_tokens(tmp_path: Path) -> None:
    saved(tmp_path)
    save_group_activity(tmp_path, group_activity(COUNTS, SAMPLES, 99))
    with pytest.raises(
        PowerInferError, match=r"activation\.npz: of 99 tokens, but neurons were counted active in more"
    ):
        load_statistics(tmp_path / "activation", [4] * 2)


def test_there_may_be_none(tmp_path: Path) -> None:
    assert load_group_activity(tmp_path, [row.astype(float) for row in COUNTS]) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "pickle", "shapes", "bomb", "text"])
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: str) -> None:
    path = saved(tmp_path)
    with np.load(path) as file:
        content = dict(file)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage in ("empty", "text"):
        path.write_bytes(b"" if damage == "empty" else b"hello")
    elif damage == "pickle":
        np.savez(path, **(content | {"mean": np.array([{}], object)}))
    elif damage == "shapes":
        np.savez(path, **(content | {"mean": content["mean"][:1]}))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("tokens.npy", bytes(100 << 20))
    with pytest.raises(PowerInferError, match=r"activation\.npz: not the group activity of a profile") as caught:
        load_group_activity(tmp_path, [row.astype(float) for row in COUNTS])
    assert "\n" not in str(caught.value)


ROWS = [row.astype(float) for row in COUNTS]


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    """What zlib, zipfile and NumPy raise is never a traceback; what is read nevertheless is as whole as any."""
    path = saved(tmp_path)
    whole = path.read_bytes()
    refused, rng = 0, np.random.default_rng(3)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            found = load_group_activity(tmp_path, ROWS)
        except PowerInferError:
            refused += 1
        else:
            assert found is None or found.bounds.tolist() == [0, 1, 2, 3, 4]
    assert refused > len(whole) // 2


@pytest.mark.parametrize(
    "changed",
    [
        {"tokens": np.inf},
        {"tokens": "7"},
        {"tokens": True},
        {"tokens": 0},
        {"tokens": 2**63},
        {"tokens": [20000]},
        {"bounds": np.array([0, 1.5, 2, 3, 4])},
        {"bounds": np.array([0, 3, 2, 1, 4])},
        {"bounds": np.array([1, 2, 3, 4, 5])},
        {"bounds": np.array(4)},
        {"sums": np.array(3.0)},
        {"sums": np.array(["a", "b"])},
        {"mean": np.full((2, 4), np.nan)},
        {"covariance": np.zeros((2, 4, 4), complex)},
        {"covariance": np.full((2, 4, 4), 1e300)},
    ],
    ids=str,
)
def test_arrays_that_are_none_of_a_profile(tmp_path: Path, changed: dict[str, object]) -> None:
    path = saved(tmp_path)
    with np.load(path) as file:
        np.savez(path.with_suffix(""), **(dict(file) | changed))
    with pytest.raises(PowerInferError, match=r"activation\.npz: not the group activity of a profile"):
        load_group_activity(tmp_path, ROWS)


def test_of_other_neurons_it_is_left_alone(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with np.load(path) as file:
        np.savez(path.with_suffix(""), **(dict(file) | {"bounds": np.array([0, 1, 2, 3, 5])}))
    assert load_group_activity(tmp_path, ROWS) is None
