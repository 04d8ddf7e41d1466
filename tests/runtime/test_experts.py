"""Mixtures of experts at the edges of routing, of every type of weights, and what does not go with them yet."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.experts.asking import ask_for_experts
from powerinfer_cli.runtime.cpu import experts, packer
from tests.helpers.families import FAMILIES, PROMPT, tiny_family
from tests.helpers.families.family import tiny
from tests.helpers.model_file import ModelFile
from tests.helpers.rounding import check_logits

NAMES = ("mixtral", "qwen2moe", "qwen3moe", "olmoe")


def wide() -> ModelFile:
    """Whose rows are whole blocks of 32."""
    return tiny("olmoe", FAMILIES["olmoe"], intermediate_size=96).file


def logits(file: ModelFile, folder: Path, **options: object) -> np.ndarray:
    """Of a prompt, and of tokens one by one behind it."""
    engine = file.engine(folder, n_ctx=128, **options)
    return np.concatenate([engine.logits(PROMPT[:40]), np.stack([engine.decode(t) for t in PROMPT[40:60]])])


def check_against_reference(file: ModelFile, folder: Path) -> np.ndarray:
    found = logits(file, folder)
    check_logits(found, logits(file, folder, reference=True))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_ties_go_to_the_first(tmp_path: Path, name: str) -> None:
    """A router that likes all alike chooses the first experts: what the others hold is not read."""
    file = tiny_family(name).file
    routers = {key: data for key, data in file.tensors.items() if key.endswith("ffn_gate_inp.weight")}
    tied = file.with_tensors({key: np.zeros_like(data) for key, data in routers.items()})
    found = check_against_reference(tied, tmp_path)
    poison = {
        key: np.concatenate([data[:3], np.full_like(data[3:], np.nan)])
        for key, data in tied.tensors.items()
        if key.endswith("_exps.weight")
    }
    np.testing.assert_array_equal(logits(tied.with_tensors(poison), tmp_path), found)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "MXFP4"])
@pytest.mark.parametrize("repack", [True, False])
def test_types_of_weights(tmp_path: Path, kind: str, repack: bool) -> None:
    """As the reference with the same weights, up to what 8 bits of activations cost: here and there another expert."""
    stored = wide().stored_as(GGMLType[kind])
    wanted, found = logits(stored, tmp_path, reference=True), logits(stored, tmp_path, repack=repack)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > (0.99999 if kind in ("F16", "BF16") else 0.98)


def test_repacked_or_not_is_the_same(tmp_path: Path) -> None:
    """Up to the order of sums: of matrices that are not experts', 16 repacked rows lie abreast."""
    file = wide().stored_as(GGMLType.Q4_0)
    np.testing.assert_allclose(logits(file, tmp_path), logits(file, tmp_path, repack=False), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_a_file_larger_than_memory_is_asked_for(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = wide().stored_as(GGMLType[kind])
    wanted = logits(file, tmp_path, repack=False)
    monkeypatch.setattr(packer, "_check_memory", lambda *_, **__: None)
    monkeypatch.setattr(packer, "available_memory", lambda: 0)
    asked = []
    monkeypatch.setattr(experts, "ask_for_experts", lambda *given: asked.append(ask_for_experts(*given)) or asked[-1])
    np.testing.assert_array_equal(logits(file, tmp_path, repack=False), wanted)
    assert asked
    assert all(asked)


@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_gates_and_ups_in_one(tmp_path: Path, kind: str) -> None:
    """As some files have them, each expert's gate before its up: the same to the bit."""
    file = wide()
    changes: dict[str, np.ndarray | None] = {}
    for name in [name for name in file.tensors if "ffn_gate_exps" in name]:
        up = name.replace("gate", "up")
        changes |= {name: None, up: None}
        changes[name.replace("gate", "gate_up")] = np.concatenate((file.tensors[name], file.tensors[up]), axis=1)
    fused = file.with_tensors(changes)
    for repack in (True, False):
        found, wanted = (logits(f.stored_as(GGMLType[kind]), tmp_path, repack=repack) for f in (fused, file))
        np.testing.assert_array_equal(found, wanted)
