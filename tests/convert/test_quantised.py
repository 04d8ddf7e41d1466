"""Checkpoints whose matrices are quantised: what they become is near to what they were made of, and by how much."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from powerinfer_cli.convert.checkpoint import open_checkpoint
from powerinfer_cli.convert.converting import convert_checkpoint, write_converted
from powerinfer_cli.convert.out_type import OutType
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, open_gguf
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.quantised_checkpoints import GROUP, MATRIX, QUANTISED, quantised_model


@pytest.mark.parametrize("kind", QUANTISED)
def test_matrices_are_near(kind: str, tmp_path: Path) -> None:
    """FP8 keeps four bits of a number; whole numbers are half a scale off, and half a step of the float16 scale."""
    model = quantised_model(kind)
    save_checkpoint(model, tmp_path)
    tensors = open_checkpoint(tmp_path).tensors
    assert set(tensors) == set(model.state_dict())
    for name, weight in model.state_dict().items():
        found, wanted = torch.from_numpy(tensors[name].to_float32()), weight.float()
        if not MATRIX.fullmatch(name):
            assert torch.equal(found, wanted)
            continue
        if kind.startswith("fp8"):
            off = wanted.abs() * 2.0**-4 + 0.005 * 2.0**-10  # the second: half the smallest number, times a scale
        else:
            order = torch.arange(wanted.shape[1])
            order = order if kind == "awq" else order * 5 % len(order)
            groups = wanted[:, order].reshape(len(wanted), -1, GROUP)
            steps = (groups.amax(2) - groups.amin(2)) / (255 if kind == "gptq-8" else 15)
            off = torch.empty_like(wanted)
            off[:, order] = steps.repeat_interleave(GROUP, 1) * 1.01
        assert (found - wanted).abs().le(off).all(), name
        assert not torch.equal(found, wanted)


def test_type_is_that_of_what_is_not_quantised(tmp_path: Path) -> None:
    save_checkpoint(quantised_model("fp8").bfloat16(), tmp_path)
    converted = convert_checkpoint(open_checkpoint(tmp_path), OutType.AUTO, vocabulary=False)
    (path,) = write_converted(converted, tmp_path / "out.gguf")
    with open_gguf(path) as gguf:
        assert gguf.tensors["blk.0.attn_q.weight"].type is GGMLType.BF16
        assert np.isfinite(gguf.tensors["blk.1.ffn_down.weight"].to_float32()).all()


Q = "model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("kind", "told", "changed", "words"),
    [
        (
            "fp8",
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {},
            "quantised by 'bitsandbytes', which cannot",
        ),
        ("gptq", {"quant_method": "gptq", "bits": 3}, {}, r"quantised by 'gptq' \(3\), which cannot"),
        ("fp8", {"weight_block_size": [0, 5]}, {}, "weight_block_size is"),
        ("fp8", {"weight_block_size": [16, 16]}, {}, "and its scales do not go together"),
        ("fp8", {}, {f"{Q}.weight_scale_inv": torch.ones(3, 3)}, "q_proj.weight' and its scales do not go together"),
        ("gptq", {}, {f"{Q}.qzeros": torch.ones(3, 3, dtype=torch.int32)}, "do not go together"),
        ("gptq", {}, {f"{Q}.scales": None}, "lacks its qzeros or scales"),
        ("gptq", {}, {f"{Q}.g_idx": torch.full((64,), 7, dtype=torch.int32)}, "do not go together"),
        ("awq", {}, {f"{Q}.qweight": torch.ones(64, 8)}, "do not go together"),
    ],
)
def test_what_does_not_go_together(
    kind: str, told: dict[str, object], changed: dict[str, torch.Tensor | None], words: str, tmp_path: Path
) -> None:
    save_checkpoint(quantised_model(kind), tmp_path)
    path, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    config = json.loads(path.read_text())
    config["quantization_config"] |= told
    path.write_text(json.dumps(config))
    tensors = {name: tensor for name, tensor in (load_file(weights) | changed).items() if tensor is not None}
    save_file(tensors, weights)
    with pytest.raises(PowerInferError, match=words) as caught:
        write_converted(
            convert_checkpoint(open_checkpoint(tmp_path), OutType.F16, vocabulary=False), tmp_path / "x.gguf"
        )
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.gguf*"))
