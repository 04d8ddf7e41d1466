"""Activation statistics: keyed by number, checked, and never a way to run somebody's code."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.placement import ActivationStatistics, find_statistics, load_statistics, save_statistics

N_FF = 6


def folder_of(tmp_path: Path, n_layer: int = 12) -> Path:
    """Layer N counts N, N + 1, ..."""
    folder = tmp_path / "activation"
    save_statistics(folder, [np.arange(layer, layer + N_FF) for layer in range(n_layer)])
    return folder


def refusal(folder: Path, n_layer: int = 2) -> str:
    with pytest.raises(PowerInferError) as caught:
        load_statistics(folder, [N_FF] * n_layer)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_layers_are_keyed_by_number(tmp_path: Path) -> None:
    """Sorted as text, activation_10 would come before activation_2."""
    statistics = load_statistics(folder_of(tmp_path), [N_FF] * 12)
    assert [int(counts[0]) for counts in statistics.counts] == list(range(12))


def test_saved_as_the_original_saves(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["activation_0.pt", "activation_1.pt"]
    saved = torch.load(folder / "activation_1.pt", weights_only=True)
    assert saved.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float16, torch.float32, torch.float64, torch.bool])
def test_any_real_type_counts(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = folder_of(tmp_path, 2)
    torch.save(torch.tensor([0, 1, 0, 1, 1, 0]).to(dtype), folder / "activation_1.pt")
    counts = load_statistics(folder, [N_FF] * 2).counts[1]
    assert counts.dtype == np.float64
    assert counts.tolist() == [0, 1, 0, 1, 1, 0]


def test_other_files_do_not_matter(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 2)
    for name in ("README.md", "activation_x.pt", "activation_2.pt.partial", "my_activation_5.pt"):
        (folder / name).write_text("")
    assert len(load_statistics(folder, [N_FF] * 2).counts) == 2


def test_found_beside_the_model(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    assert find_statistics(model) is None
    (tmp_path / "activation").write_text("a file, not a folder")
    assert find_statistics(model) is None
    (tmp_path / "activation").unlink()
    folder = folder_of(tmp_path)
    assert find_statistics(model) == folder


def test_found_through_a_link_and_beside_it(tmp_path: Path) -> None:
    """The hub's cache keeps a model as a link to a blob, and its activation folder beside the link."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0123").write_text("")
    link = tmp_path / "snapshot" / "model.gguf"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "blobs" / "0123")
    assert find_statistics(link) is None
    beside_the_blob = folder_of(tmp_path / "blobs")
    assert find_statistics(link) == beside_the_blob
    beside_the_link = folder_of(tmp_path / "snapshot")
    assert find_statistics(link) == beside_the_link


def test_a_missing_layer(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 12)
    (folder / "activation_2.pt").unlink()
    assert "activation_2.pt is missing" in refusal(folder, 12)


def test_layers_of_another_model(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    assert "3 layers, but the model has 2" in refusal(folder, 2)
    assert "activation_3.pt is missing" in refusal(folder, 4)
    assert "nowhere" in refusal(tmp_path / "nowhere")


class Bomb:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_not_executed(tmp_path: Path) -> None:
    folder, traces = folder_of(tmp_path, 2), [tmp_path / "bare", tmp_path / "zipped"]
    for trace in traces:
        pickle.loads(pickle.dumps(Bomb(trace)))
        trace.rmdir()  # it would have worked
    (folder / "activation_1.pt").write_bytes(pickle.dumps(Bomb(traces[0])))
    assert "activation_1.pt: not a saved tensor" in refusal(folder)
    torch.save(Bomb(traces[1]), folder / "activation_1.pt")
    assert "activation_1.pt: not a saved tensor" in refusal(folder)
    assert not any(trace.exists() for trace in traces)


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(N_FF + 1),
        torch.zeros(N_FF, 1),
        torch.zeros(()),
        torch.zeros(N_FF, dtype=torch.complex64),
        torch.tensor([1.0, 2, 3, 4, 5, float("nan")]),
        torch.tensor([1.0, 2, 3, 4, 5, float("inf")]),
        torch.tensor([1, 2, 3, 4, 5, -1]),
        torch.tensor([1, 2, 3, 4, 5, 1e308], dtype=torch.float64),
        torch.eye(N_FF)[0].to_sparse(),
        torch.zeros(N_FF, device="meta"),
        {"counts": torch.zeros(N_FF)},
        [1, 2, 3, 4, 5, 6],
        None,
    ],
    ids=lambda content: str(content).split("\n", maxsplit=1)[0][:40],
)
def test_what_is_no_vector_of_counts(tmp_path: Path, content: object) -> None:
    folder = folder_of(tmp_path, 2)
    torch.save(content, folder / "activation_1.pt")
    assert "activation_1.pt: " in refusal(folder)


def test_one_number_that_says_it_is_many_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, 1)
    torch.save(torch.zeros(1).expand(10**9), folder / "activation_0.pt")
    assert (folder / "activation_0.pt").stat().st_size < 4096

    def allocate(*_: object) -> torch.Tensor:
        raise AssertionError("before its size was known to be there")

    monkeypatch.setattr(torch.Tensor, "double", allocate)
    assert "activation_0.pt: not a saved tensor" in refusal(folder, 1)


def test_a_slice_of_all_layers_counts_and_what_would_inflate(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 2)
    torch.save(torch.arange(2 * N_FF).view(2, N_FF)[1], folder / "activation_1.pt")
    assert load_statistics(folder, [N_FF] * 2).counts[1].tolist() == [6, 7, 8, 9, 10, 11]
    with zipfile.ZipFile(folder / "activation_1.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "activation_1.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert "activation_1.pt: not a saved tensor" in refusal(folder)


def test_what_is_read_outlives_its_file(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 2)
    counts = load_statistics(folder, [N_FF] * 2).counts[1]
    with (folder / "activation_1.pt").open("r+b") as file:
        file.truncate(0)
    assert counts.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a pickle", b"\x80\x04" * 50])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    folder = folder_of(tmp_path, 2)
    (folder / "activation_1.pt").write_bytes(content)
    assert "activation_1.pt: not a saved tensor" in refusal(folder)


def test_cut_short_anywhere(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 2)
    whole = (folder / "activation_1.pt").read_bytes()
    for size in range(0, len(whole) - 1, 97):
        (folder / "activation_1.pt").write_bytes(whole[:size])
        assert "activation_1.pt" in refusal(folder)


def test_a_folder_or_a_huge_file_in_its_place(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 2)
    (folder / "activation_1.pt").unlink()
    with (folder / "activation_1.pt").open("wb") as file:
        file.truncate((64 << 20) + 1)
    assert "too large" in refusal(folder)
    (folder / "activation_1.pt").unlink()
    (folder / "activation_1.pt").mkdir()
    assert "activation_1.pt" in refusal(folder)


def test_a_layer_that_many_tokens_never_used_settles_nothing(tmp_path: Path) -> None:
    """Its whole FFN would be left out; another text may use it."""
    folder = tmp_path / "activation"
    save_statistics(folder, [np.full(N_FF, 10_000), np.zeros(N_FF)])
    known = load_statistics(folder, [N_FF] * 2)
    assert known.activity(0) is not None
    assert known.activity(1) is None


def statistics(*layers: list[int]) -> ActivationStatistics:
    return ActivationStatistics(tuple(np.array(layer, np.float64) for layer in layers))


def test_always_and_never() -> None:
    """The largest count of all layers stands for the number of tokens."""
    both = statistics([20_000, 0, 19_999, 1], [0, 0, 5, 12])
    first, second = both.activity(0), both.activity(1)
    assert first is not None
    assert second is not None
    assert first.always.tolist() == [True, False, False, False]
    assert first.undecided.tolist() == [2, 3]
    assert second.always.tolist() == [False] * 4
    assert second.undecided.tolist() == [2, 3]


def test_too_few_tokens_settle_nothing() -> None:
    assert statistics([9_999, 0], [1, 2]).activity(0) is None
    assert statistics([10_000, 0], [1, 2]).activity(1) is not None
    assert statistics([0, 0]).activity(0) is None
