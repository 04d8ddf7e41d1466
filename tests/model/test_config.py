"""Sizes from metadata: what real files say is understood, what makes no sense is refused in one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile, open_gguf
from powerinfer_cli.model import Activation, ModelConfig, Rope, RopeScaling, load_model
from powerinfer_cli.model.blocks import Sequential
from powerinfer_cli.runtime import Engine, EngineOptions
from tests.helpers.anatomy import anatomy
from tests.helpers.families import tiny_family
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import tiny_model

ALONE = (Activation.XIELU, Activation.CLAMPED_SWISH)  # of one architecture each


def config(model: ModelFile, folder: Path) -> ModelConfig:
    return load_model(model.open(folder)).config


def test_sizes_of_a_llama(llama: ModelFile, tmp_path: Path) -> None:
    c = config(llama, tmp_path)
    assert (c.n_layer, c.n_embd, c.n_ff, c.n_vocab, c.n_ctx_train) == (2, 64, (112, 112), 96, 128)
    assert (c.name, c.sparse, c.activation) == ("model", False, Activation.SILU)
    layer = load_model(llama.open(tmp_path)).layers[1]
    a, neurons = layer.attention, layer.ffn.neurons
    assert (a.n_head, a.n_head_kv, a.head_dim, a.scale, neurons.n_ff) == (4, 2, 16, 0.25, 112)
    assert (a.window, a.softcap, a.norms, neurons.activation) == (None, None, None, Activation.SILU)
    assert isinstance(layer, Sequential)
    assert layer.ffn_norms.before is not None
    assert layer.ffn_norms.before.eps == pytest.approx(1e-6)
    rope = a.rope
    assert rope is not None
    assert (rope.n_rot, rope.base, rope.factor) == (16, 1000.0, 1.0)


def test_activations_by_default(sparse_llama: ModelFile, tmp_path: Path) -> None:
    assert config(sparse_llama, tmp_path).activation is Activation.RELU
    defaults = {"falcon-7b": Activation.GELU, "opt": Activation.RELU, "bamboo": Activation.RELU}
    for name, activation in (defaults | {"qwen2": Activation.SILU}).items():
        assert config(tiny_model(name).file, tmp_path).activation is activation


def test_the_vocabulary_counts_tokens(llama: ModelFile, tmp_path: Path) -> None:
    tokens = {**llama.metadata, "tokenizer.ggml.tokens": ["a", "b", "c"]}
    with pytest.raises(
        PowerInferError, match=r"token_embd\.weight has shape 96 x 64, but the metadata asks for 3 x 64"
    ):
        config(ModelFile("llama", tokens, llama.tensors), tmp_path)
    fewer = {name: data[:3] for name, data in llama.tensors.items() if name in ("token_embd.weight", "output.weight")}
    assert config(ModelFile("llama", tokens, {**llama.tensors, **fewer}), tmp_path).n_vocab == 3
    assert config(llama.with_metadata(vocab_size=None), tmp_path).n_vocab == 96


def test_one_size_for_all_layers_may_be_an_array(llama: ModelFile, tmp_path: Path) -> None:
    changed = llama.with_metadata(attention__head_count_kv=[2, 2], feed_forward_length=[112, 112])
    assert anatomy(load_model(changed.open(tmp_path))) == anatomy(load_model(llama.open(tmp_path)))


def rope_of(model: ModelFile, folder: Path) -> Rope:
    rope = load_model(model.open(folder)).layers[0].attention.rope
    assert rope is not None
    return rope


def test_old_name_of_the_rope_factor(llama: ModelFile, tmp_path: Path) -> None:
    for changes in ({"rope__scale_linear": 2.5}, {"rope__scaling__factor": 2.5}):
        rope = rope_of(llama.with_metadata(**changes), tmp_path)
        assert (rope.scaling, rope.factor) == (RopeScaling.LINEAR, 2.5)
    off = llama.with_metadata(rope__scaling__type="none", rope__scaling__factor=2.5)
    assert rope_of(off, tmp_path).factor == 1.0


def test_positions_that_a_table_holds(opt: ModelFile, tmp_path: Path) -> None:
    table = opt.tensors["position_embd.weight"]
    assert config(opt, tmp_path).n_ctx_train == 128
    assert config(opt.with_tensors({"position_embd.weight": table[:52]}), tmp_path).n_ctx_train == 50
    with pytest.raises(PowerInferError, match=r"position_embd\.weight"):
        config(opt.with_tensors({"position_embd.weight": table[:2]}), tmp_path)


@pytest.mark.parametrize("arch", ["gemma9", "", "LLAMA", "llama\n"])
def test_other_architectures(llama: ModelFile, tmp_path: Path, arch: str) -> None:
    with pytest.raises(PowerInferError) as caught:
        config(ModelFile(arch, llama.metadata, llama.tensors), tmp_path)
    assert "\n" not in str(caught.value)
    if arch:
        assert "supported: llama, bamboo, " in str(caught.value)
    if arch == "gemma9":
        assert "the nearest that is: gemma" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"block_count": 0}, "block_count is 0"),
        ({"block_count": 1 << 32}, "block_count is 4294967296"),
        ({"block_count": None}, "block_count is missing"),
        ({"block_count": "2"}, "block_count is not an integer"),
        ({"block_count": 2.0}, "block_count is not an integer"),
        ({"block_count": True}, "block_count is not an integer"),
        ({"embedding_length": 0}, "embedding_length is 0"),
        ({"embedding_length": 1 << 40}, "embedding_length is 1099511627776"),
        ({"embedding_length": 66}, "token_embd.weight has shape 96 x 64, but the metadata asks for 96 x 66"),
        ({"feed_forward_length": 0}, "feed_forward_length is 0"),
        ({"feed_forward_length": [112, 56]}, "blk.1.ffn_gate.weight has shape 112 x 64, but the metadata asks for 56"),
        ({"feed_forward_length": [112]}, "feed_forward_length has 1 entries for 2 layers"),
        ({"feed_forward_length": [112, 0]}, "feed_forward_length is 0"),
        ({"context_length": 0}, "context_length is 0"),
        ({"context_length": -1}, "context_length is -1"),
        ({"attention__head_count": 0}, "attention.head_count is 0"),
        ({"attention__head_count_kv": 0}, "attention.head_count_kv is 0"),
        ({"attention__head_count_kv": 8}, "attention.head_count_kv is 8"),
        ({"attention__head_count": 8, "attention__head_count_kv": 3}, "attention.head_count 8 is not a multiple of"),
        ({"attention__head_count_kv": [2, 1]}, "blk.1.attn_k.weight has shape 32 x 64, but the metadata asks for 16"),
        ({"attention__head_count_kv": [2, 3]}, "attention.head_count 4 is not a multiple of"),
        ({"attention__key_length": 0}, "attention.key_length is 0"),
        ({"attention__value_length": 8}, "attention.value_length 8 differs"),
        ({"attention__layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan"),
        ({"attention__layer_norm_rms_epsilon": float("inf")}, "layer_norm_rms_epsilon is inf"),
        ({"attention__layer_norm_rms_epsilon": -1.0}, "layer_norm_rms_epsilon is -1.0"),
        ({"attention__layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon is missing"),
        ({"attention__layer_norm_rms_epsilon": [1e-5]}, "layer_norm_rms_epsilon is not a number"),
        ({"attention__layer_norm_rms_epsilon": np.float64(1e300)}, "layer_norm_rms_epsilon is 1e+300"),
        ({"rope__dimension_count": 7}, "rope.dimension_count 7 is odd"),
        ({"rope__dimension_count": 0}, "rope.dimension_count is 0"),
        ({"rope__dimension_count": 18}, "rope.dimension_count is 18"),
        ({"rope__freq_base": 1.0}, "rope.freq_base is 1.0"),
        ({"rope__freq_base": float("nan")}, "rope.freq_base is nan"),
        ({"rope__scaling__factor": -2.0}, "rope.scaling.factor is -2.0"),
        ({"rope__scaling__factor": np.float64(1e-300)}, "rope.scaling.factor is 1e-300"),
        ({"rope__scaling__type": "dynamic"}, "rope.scaling.type 'dynamic' is not supported"),
        ({"rope__scaling__type": "longrope"}, "tensor rope_factors_short.weight is missing"),
        ({"rope__scaling__type": "yarn", "rope__scaling__yarn_beta_fast": 0.0}, "yarn_beta_fast is 0.0"),
        ({"rope__scaling__type": "yarn", "rope__scaling__yarn_beta_slow": -1.0}, "yarn_beta_slow is -1.0"),
        ({"hidden_activation": "tanh"}, "hidden_activation 'tanh' is not supported"),
        ({"expert_count": 8}, "expert_used_count is missing"),
    ],
)
def test_sizes_that_make_no_sense(llama: ModelFile, tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PowerInferError) as caught:
        config(llama.with_metadata(**changes), tmp_path)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_is_no_model(llama: ModelFile, tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match=r"model\.gguf: the file holds no tensors"):
        config(ModelFile("llama", llama.metadata, {}), tmp_path)


def test_a_sparse_model_is_a_relu_model(sparse_llama: ModelFile, tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match="hidden_activation 'silu' is not supported in a PowerInfer model"):
        config(sparse_llama.with_metadata(hidden_activation="silu"), tmp_path)


@pytest.mark.parametrize("activation", [kind for kind in Activation if kind not in ALONE])
def test_a_sparse_model_may_name_its_activation(
    sparse_llama: ModelFile, tmp_path: Path, activation: Activation
) -> None:
    own = {"powerinfer.activation": str(activation), "powerinfer.activation_threshold": 0.5}
    named = replace(sparse_llama, metadata={**sparse_llama.metadata, **own})
    assert config(named, tmp_path).activation is activation
    assert config(named.with_metadata(hidden_activation=str(activation)), tmp_path).activation is activation
    with pytest.raises(PowerInferError, match=f"'tanh' is not supported in a PowerInfer model of {activation} neurons"):
        config(named.with_metadata(hidden_activation="tanh"), tmp_path)


def test_an_activation_whose_numbers_are_missing(sparse_llama: ModelFile, llama: ModelFile, tmp_path: Path) -> None:
    """xIELU's are of its architecture, and what they are is bounded."""
    for file in (llama.with_metadata(hidden_activation="xielu"), sparse_llama.with_metadata(hidden_activation="xielu")):
        with pytest.raises(PowerInferError, match=r"llama\.hidden_activation 'xielu' is not supported"):
            config(file, tmp_path)
    apertus = tiny_family("apertus").file
    for key in ("alpha_n", "alpha_p", "beta", "eps"):
        for value in (None, float("nan"), 1e9, "x", np.array([0.5]), [True] * 4):
            metadata = {name: was for name, was in apertus.metadata.items() if name != f"xielu.{key}"}
            changed = metadata if value is None else {**metadata, f"xielu.{key}": value}
            with pytest.raises(PowerInferError, match=rf"xielu\.{key}"):
                config(replace(apertus, metadata=changed), tmp_path)


@pytest.mark.parametrize("value", [None, -0.5, float("nan"), "x"])
def test_a_fatrelu_without_a_threshold(llama: ModelFile, tmp_path: Path, value: object) -> None:
    named = llama.with_metadata(hidden_activation="fatrelu")
    told = {} if value is None else {"powerinfer.activation_threshold": value}
    with pytest.raises(PowerInferError, match=r"powerinfer\.activation_threshold"):
        config(replace(named, metadata={**named.metadata, **told}), tmp_path)


def test_an_activation_that_is_none(sparse_llama: ModelFile, llama: ModelFile, tmp_path: Path) -> None:
    for value in ("tanh", 3, ["silu"]):
        named = replace(sparse_llama, metadata={**sparse_llama.metadata, "powerinfer.activation": value})
        with pytest.raises(PowerInferError, match=r"powerinfer\.activation"):
            config(named, tmp_path)
    dense = replace(llama, metadata={**llama.metadata, "powerinfer.activation": "relu"})
    assert config(dense, tmp_path).activation is Activation.SILU


def test_a_threshold_that_is_no_number(sparse_llama: ModelFile, tmp_path: Path) -> None:
    metadata = {**sparse_llama.metadata, "powerinfer.sparse_threshold": float("nan")}
    with pytest.raises(PowerInferError, match=r"powerinfer\.sparse_threshold"):
        config(ModelFile("llama", metadata, sparse_llama.tensors, sparse=True), tmp_path)


NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 4, 7, 8, 16, 63, 64, 65, 128, 1 << 24, 1 << 31, 1 << 32, (1 << 64) - 1]),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.sampled_from([0.0, -0.0, 1e-300, 1e-38, 0.5, 1.0, 1.0001, 2.0, 1e30, 1e38, 1e308]),
    st.floats(),
)
VALUES = st.one_of(
    NUMBERS,
    st.booleans(),
    st.text(max_size=8),
    st.sampled_from(["none", "linear", "yarn", "longrope", "relu", "gelu", "silu"]),
    st.lists(st.integers(-1, 130), max_size=4).map(lambda items: np.array(items, np.int64)),
    st.lists(st.floats(width=32), max_size=3).map(lambda items: np.array(items, np.float32)),
    st.lists(st.text(max_size=3), max_size=3),
    st.just([[1], ["a"]]),
)
UNWRITTEN = [
    "vocab_size",
    "hidden_activation",
    "expert_count",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_log_multiplier",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
]
GENERAL = ["general.architecture", "general.name", "tokenizer.ggml.tokens", "powerinfer.sparse_threshold"]


@pytest.fixture(scope="module", params=["llama-yarn", "llama-relu", "falcon-7b", "opt", "qwen3"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    tiny = tiny_model(request.param)
    file = tiny.file.sparsified(random_predictors(tiny)) if request.param == "llama-relu" else tiny.file
    return open_gguf(file.write(tmp_path_factory.mktemp("mutated") / "model.gguf"))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_metadata_runs_or_is_refused(whole: GGUFFile, data: st.DataObject) -> None:
    arch = whole.get("general.architecture", str)
    keys = sorted({*whole.metadata, *(f"{arch}.{key}" for key in UNWRITTEN), *GENERAL})
    changes = data.draw(st.dictionaries(st.sampled_from(keys), VALUES, min_size=1, max_size=3))
    metadata = {key: value for key, value in {**whole.metadata, **changes}.items() if key != "GGUF.version"}
    mutated = GGUFFile(whole.path, whole.sparse, whole.version, metadata, whole.tensors)
    complaint = ""
    try:
        engine = Engine.load(mutated, EngineOptions(n_ctx=8, n_threads=1))
        engine.prefill([1, 2, 3])
        assert engine.decode(4).shape == (engine.config.n_vocab,)
    except PowerInferError as error:
        complaint = str(error)
    assert "\n" not in complaint
