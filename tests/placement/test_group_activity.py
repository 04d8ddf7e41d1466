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
    known = load_statistics(tmp_path / "activation", 2, 4)
    assert known.tokens == 20000
    activity = known.activity(0)
    assert activity is not None
    assert not activity.always.any(), "100 of 20000 is the most, but not always"
    assert activity.undecided.tolist() == [0, 1, 3]


def test_without_it_the_largest_count_stands_for_it(tmp_path: Path) -> None:
    saved(tmp_path).unlink()
    unknown = load_statistics(tmp_path / "activation", 2, 4)
    assert unknown.tokens is None
    assert unknown.activity(0) is None, "100 tokens are too few to tell"


def test_of_other_counts_it_is_left_alone(tmp_path: Path) -> None:
    saved(tmp_path)
    assert load_group_activity(tmp_path, [row + 1.0 for row in COUNTS]) is None
    save_statistics(tmp_path / "activation", list(COUNTS + 1))
    assert load_statistics(tmp_path / "activation", 2, 4).tokens is None


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
