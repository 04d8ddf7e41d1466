"""A model's fingerprint follows its numbers, not its name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType, Tensor, open_gguf, write_gguf
from powerinfer_cli.placement import ActivationStatistics, model_fingerprint, statistics_fingerprint
from tests.helpers.model_file import ModelFile

MODEL = ModelFile(
    "llama",
    {"general.name": "one", "llama.block_count": 1, "llama.rope.freq_base": 10000.0},
    {"a": np.arange(4096, dtype=np.float32).reshape(16, 256), "b": np.arange(3, dtype=np.float32)},
)


def fingerprint(model: ModelFile, path: Path) -> str:
    with open_gguf(model.write(path)) as gguf:
        return model_fingerprint(gguf)


def test_name_and_order_do_not_matter(tmp_path: Path) -> None:
    wanted = fingerprint(MODEL, tmp_path / "a.gguf")
    assert len(wanted) == 32
    named = replace(MODEL, metadata={**MODEL.metadata, "general.name": "two"})
    assert fingerprint(named, tmp_path / "b.gguf") == wanted
    turned = replace(MODEL, tensors=dict(reversed(MODEL.tensors.items())))
    assert fingerprint(turned, tmp_path / "c.gguf") == wanted
    statistics = ActivationStatistics((np.zeros(3),))
    assert statistics_fingerprint(statistics) != wanted


@pytest.mark.parametrize("place", [0, 4095])
def test_numbers_matter(tmp_path: Path, place: int) -> None:
    data = MODEL.tensors["a"].copy()
    data.flat[place] += 1
    changed = MODEL.with_tensors({"a": data})
    assert fingerprint(changed, tmp_path / "b.gguf") != fingerprint(MODEL, tmp_path / "a.gguf")


def test_everything_else_that_matters(tmp_path: Path) -> None:
    others = [
        MODEL,
        replace(MODEL, sparse=True),
        MODEL.with_metadata(rope__freq_base=20000.0),
        replace(MODEL, types={"a": GGMLType.F16}),
        MODEL.with_tensors({"b": None}),
        MODEL.with_tensors({"b": np.arange(3, dtype=np.float32).reshape(3, 1)}),
    ]
    found = [fingerprint(model, tmp_path / f"{index}.gguf") for index, model in enumerate(others)]
    assert len(set(found)) == len(others)


def test_empty_and_small_tensors(tmp_path: Path) -> None:
    tensors = [("e", np.empty(0, np.float32), GGMLType.F32), ("t", np.ones(1, np.float32), GGMLType.F32)]
    write_gguf(tmp_path / "a.gguf", arch="llama", metadata={}, tensors=tensors, sparse=False)
    with open_gguf(tmp_path / "a.gguf") as gguf:
        assert len(model_fingerprint(gguf)) == 32


def test_statistics() -> None:
    one = ActivationStatistics((np.array([1.0, 2.0]), np.array([3.0])))
    same = ActivationStatistics((np.array([1.0, 2.0]), np.array([3.0])))
    other_sizes = ActivationStatistics((np.array([1.0]), np.array([2.0, 3.0])))
    other_counts = ActivationStatistics((np.array([1.0, 2.0]), np.array([4.0])))
    assert statistics_fingerprint(one) == statistics_fingerprint(same)
    assert len({statistics_fingerprint(s) for s in (one, other_sizes, other_counts)}) == 3


def test_what_was_looked_at_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of each tensor: a rank's memory is that of its own layers."""
    dropped, drop = list[tuple[str, int, int]](), Tensor.drop_pages

    def noted(tensor: Tensor, begin: int, end: int) -> None:
        dropped.append((tensor.name, begin, end))
        drop(tensor, begin, end)

    monkeypatch.setattr(Tensor, "drop_pages", noted)
    fingerprint(MODEL, tmp_path / "a.gguf")
    assert dropped == [("a", 0, 4 * 4096), ("b", 0, 12)]
