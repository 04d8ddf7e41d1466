"""Files of experts: what their keys say, and keys and tensors that contradict each other, each in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile, open_gguf
from powerinfer_cli.model import Model, Predictors, load_model, with_predictors
from powerinfer_cli.model.blocks import Gating, Routed, routing_of
from powerinfer_cli.model.key_table import WITH_EXPERTS
from tests.helpers.anatomy import anatomy
from tests.helpers.families import tiny_family
from tests.helpers.model_file import ModelFile


def qwen3() -> ModelFile:
    """8 experts of 40 neurons, 3 chosen."""
    return tiny_family("qwen3moe").file


def opened(file: ModelFile, folder: Path, **keys: Any) -> Model:
    return load_model(file.with_metadata(**keys).open(folder))


def routing(model: Model) -> Routed[Any, Any]:
    found = routing_of(model.layers[0].ffn.selection)
    assert found is not None
    return found


def refusal(file: ModelFile, folder: Path, **keys: Any) -> str:
    with pytest.raises(PowerInferError) as caught:
        opened(file, folder, **keys)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_a_file_says(tmp_path: Path) -> None:
    keys = {"expert_gating_func": 2, "expert_weights_norm": False, "expert_weights_scale": 2.5}
    groups = {"expert_group_count": 4, "expert_group_used_count": 2}
    model = opened(qwen3(), tmp_path, **keys, **groups)
    router = routing(model).router
    assert (router.gating, router.normed, router.scale) == (Gating.SIGMOID, False, 2.5)
    assert (router.n_chosen, router.n_groups, router.n_groups_used) == (3, 4, 2)
    assert model.config.n_ff == (8 * 40,) * 4
    assert model.has_experts


def test_what_it_does_not_say(tmp_path: Path) -> None:
    unset = {"expert_gating_func": 0, "expert_weights_scale": 0.0, "expert_group_count": 0, "expert_shared_count": 0}
    model = opened(qwen3(), tmp_path, **unset, leading_dense_block_count=0)
    router = routing(model).router
    assert (router.gating, router.normed, router.scale, router.n_groups) == (Gating.SOFTMAX, True, 1.0, 1)
    assert opened(tiny_family("llama").file, tmp_path).has_experts is False


def test_the_width_of_experts(tmp_path: Path) -> None:
    """Without a key of theirs it is the layer's; in Qwen's old files the layer's, divided among the chosen."""
    opened(tiny_family("mixtral").file, tmp_path, expert_feed_forward_length=None)
    opened(qwen3(), tmp_path, expert_feed_forward_length=None, feed_forward_length=120)
    message = refusal(qwen3(), tmp_path, expert_feed_forward_length=None, feed_forward_length=150)
    assert "blk.0.ffn_gate_exps.weight has shape 8 x 40 x 64, but the metadata asks for 8 x 50 x 64" in message


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"expert_count": None}, "but does not say how many there are (qwen3moe.expert_count)"),
        ({"expert_count": 0}, "but does not say how many there are (qwen3moe.expert_count)"),
        ({"expert_count": 7}, "blk.0.ffn_gate_inp.weight has shape 8 x 64, but the metadata asks for 7 x 64"),
        ({"expert_count": 1 << 20}, "expert_count is 1048576, outside 1 to 4096"),
        ({"expert_used_count": None}, "expert_used_count is missing"),
        ({"expert_used_count": 0}, "expert_used_count is 0, outside 1 to"),
        ({"expert_used_count": 9}, "expert_used_count is 9, but expert_count is 8"),
        ({"expert_feed_forward_length": 41}, "blk.0.ffn_gate_exps.weight has shape 8 x 40 x 64, but the metadata asks"),
        ({"expert_group_count": 3}, "expert_group_count 3 does not divide expert_count 8"),
        ({"expert_group_count": 4, "expert_group_used_count": 5}, "expert_group_used_count is 5, but expert_group_c"),
        ({"expert_group_count": 4, "expert_group_used_count": 1}, "expert_used_count is 3, but 1 of 4 groups have 2"),
        ({"expert_gating_func": 4}, "expert_gating_func 4 is not supported (supported: 1, 2, 3)"),
        ({"expert_weights_scale": -1.0}, "expert_weights_scale is -1.0"),
        ({"expert_weights_norm": 3}, "expert_weights_norm is neither true nor false"),
        ({"leading_dense_block_count": 1}, "leading_dense_block_count is 1, which changes what is computed"),
        ({"interleave_moe_layer_step": 2}, "interleave_moe_layer_step is 2, which changes what is computed"),
        ({"nextn_predict_layers": 1}, "nextn_predict_layers is 1, which changes what is computed"),
    ],
)
def test_keys_that_cannot_be(tmp_path: Path, keys: dict[str, Any], complaint: str) -> None:
    assert complaint in refusal(qwen3(), tmp_path, **keys)


def test_keys_of_experts_are_heeded_or_refused(tmp_path: Path) -> None:
    heeded = [
        "expert_feed_forward_length",
        "expert_gating_func",
        "expert_group_count",
        "expert_group_used_count",
        "expert_used_count",
        "expert_weights_norm",
        "expert_weights_scale",
    ]
    for key in sorted(WITH_EXPERTS.difference(heeded)):
        assert f"qwen3moe.{key} is 7" in refusal(qwen3(), tmp_path, **{key: 7})


def test_a_shared_expert_that_does_not_fit(tmp_path: Path) -> None:
    message = refusal(tiny_family("qwen2moe").file, tmp_path, expert_shared_feed_forward_length=80)
    assert "blk.0.ffn_gate_shexp.weight has shape 72 x 64, but the metadata asks for 80 x 64" in message


def test_experts_in_a_dense_model(tmp_path: Path) -> None:
    extra = {"blk.0.ffn_up_exps.weight": np.zeros((2, 8, 64), np.float32)}
    message = refusal(tiny_family("llama").file.with_tensors(extra), tmp_path)
    assert "holds tensor blk.0.ffn_up_exps.weight, one of a mixture of experts" in message
    assert "does not say how many there are (llama.expert_count)" in message


def test_biases_and_choice_biases_are_read(tmp_path: Path) -> None:
    """Layer by layer, by expert."""
    shapes = {"ffn_gate_inp.bias": (8,), "exp_probs_b.bias": (8,), "ffn_up_exps.bias": (8, 40)}
    more = {f"blk.{i}.{name}": np.zeros(shape, np.float32) for i in range(4) for name, shape in shapes.items()}
    file = qwen3().with_tensors({**more, **{f"blk.{i}.ffn_down_exps.bias": np.zeros((8, 64)) for i in range(4)}})
    ffn = opened(file, tmp_path).layers[3].ffn
    router, down, up = routing(opened(file, tmp_path)).router, ffn.neurons.down, ffn.neurons.up
    assert router.logits.bias is not None
    assert router.choice_bias is not None
    assert down.bias is not None
    assert up.bias is not None
    assert (up.weight.shape, up.bias.shape) == ((320, 64), (320,))
    assert (down.weight.shape, down.bias.shape) == ((512, 40), (512,))
    del more["blk.2.exp_probs_b.bias"]
    assert "blk.2.exp_probs_b.bias is missing, but other layers have theirs" in refusal(
        qwen3().with_tensors(more), tmp_path
    )


def test_no_predictors_for_experts(tmp_path: Path) -> None:
    pair = np.zeros((4, 64), np.float32), np.zeros((320, 4), np.float32)
    with pytest.raises(PowerInferError, match="predictors are for models without experts"):
        with_predictors(opened(qwen3(), tmp_path), Predictors.of([pair] * 4))


def test_no_sparse_file_of_experts(tmp_path: Path) -> None:
    gguf = open_gguf(qwen3().write(tmp_path / "m.gguf"))
    with pytest.raises(PowerInferError, match=r"a PowerInfer model \(PWRI\) of experts is not supported"):
        load_model(GGUFFile(gguf.path, True, gguf.version, gguf.metadata, gguf.tensors))


def test_layers_that_guess_are_not_read(tmp_path: Path) -> None:
    """What GLM 4.5 has behind its last layer; and nothing behind that."""
    plain = tiny_family("glm4moe").file
    last = {name.replace("blk.3.", "blk.4."): data for name, data in plain.tensors.items() if name.startswith("blk.3.")}
    more = last | {"blk.4.nextn.enorm.weight": last["blk.4.attn_norm.weight"]}
    file = plain.with_tensors(more).with_metadata(block_count=5, nextn_predict_layers=1)
    assert repr(anatomy(opened(file, tmp_path))) == repr(anatomy(opened(plain, tmp_path)))
    assert "unexpected tensor blk.4." in refusal(plain.with_tensors(more), tmp_path)
    message = refusal(file, tmp_path, nextn_predict_layers=5)
    assert "nextn_predict_layers is 5, but block_count is 5" in message
