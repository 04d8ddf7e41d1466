"""Files that llama.cpp itself has saved name every key that it knows; what they say of what is not there counts not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import load_model
from tests.helpers.anatomy import anatomy
from tests.helpers.families import tiny_family
from tests.helpers.model_file import ModelFile

# As `llama_model_save_to_file` has written them (0.3.36), without most zeros.
SAVED: dict[str, Any] = {
    "ssm.inner_size": 0,
    "wkv.head_size": 0,
    "decoder_start_token_id": -1,
    "deepstack_mapping": np.full(16, -1, np.int32),
    "token_shift_count": 2,
    "pooling_type": np.uint32(0xFFFFFFFF),
    "expert_count": 0,
    "expert_gating_func": 0,
    "expert_weights_norm": False,
    "expert_weights_scale": 0.0,
    "expert_group_scale": 0.05,
    "attn_logit_softcapping": 50.0,
    "router_logit_softcapping": 30.0,
    "final_logit_softcapping": 30.0,
    "logit_scale": 0.0,
    "use_parallel_residual": False,
    "attention.causal": True,
    "attention.clamp_kqv": 0.0,
    "attention.layer_norm_epsilon": 0.0,
    "attention.layer_norm_rms_epsilon": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attention.rope_pattern": 1,
    "attention.scale": 0.0,
    "attention.sliding_window": 0,
    "attention.indexer.kpool_select_tail": True,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.finetuned": False,
    "rope.scaling.yarn_ext_factor": -1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
    "kda.gate_lower_bound": -np.inf,
    "activation.situ_beta": 1.0,
}


def saved(file: ModelFile, **keys: Any) -> ModelFile:
    """The file with what it does not say itself."""
    more = {f"{file.arch}.{key}": value for key, value in (SAVED | keys).items()}
    return replace(file, metadata={**more, **file.metadata})


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "gemma",
        "gemma3",
        "gptneox-sequential",
        "stablelm-2-12b",
        "mistral3",
        "bloom",
        "phi3",
        "deci",
        "mixtral",
        "granitemoe",
    ],
)
def test_what_is_not_set_changes_nothing(tmp_path: Path, name: str) -> None:
    file, own = tiny_family(name).file, {}
    if name == "gemma3":
        own["final_logit_softcapping"] = 0.0  # which it may have
    if name == "bloom":
        own["attention.max_alibi_bias"] = 8.0
    plain, other = load_model(file.open(tmp_path)), load_model(saved(file, **own).open(tmp_path))
    assert anatomy(other) == anatomy(plain)
    assert other.notes == plain.notes


def test_a_gain_of_one_counts_where_a_converter_has_written_it(tmp_path: Path) -> None:
    """llama.cpp saves 1 for the gain that it computes."""
    file = tiny_family("llama").file.with_metadata(rope__scaling__type="yarn", rope__scaling__factor=4.0)
    told = file.with_metadata(rope__scaling__yarn_attn_factor=1.0)
    gains = []
    for one in (file, told, saved(told)):
        rope = load_model(one.open(tmp_path)).layers[0].attention.rope
        assert rope is not None
        gains.append(rope.magnitude)
    assert gains == [pytest.approx(1 + 0.1 * np.log(4)), 1.0, pytest.approx(1 + 0.1 * np.log(4))]


@pytest.mark.parametrize(("factor", "kind"), [(1.0, "yarn"), (0.0, "linear")])
def test_extrapolation_as_it_is_anyway(tmp_path: Path, factor: float, kind: str) -> None:
    file = tiny_family("llama").file.with_metadata(rope__scaling__type=kind, rope__scaling__factor=4.0)
    plain = anatomy(load_model(file.open(tmp_path)))
    assert anatomy(load_model(file.with_metadata(rope__scaling__yarn_ext_factor=factor).open(tmp_path))) == plain
    other = file.with_metadata(rope__scaling__yarn_ext_factor=1.0 - factor)
    with pytest.raises(PowerInferError, match=r"yarn_ext_factor is"):
        load_model(other.open(tmp_path))


def test_what_is_set_is_refused(tmp_path: Path) -> None:
    for key, value in {"token_shift_count": 3, "decoder_start_token_id": 7, "ssm.inner_size": 64}.items():
        with pytest.raises(PowerInferError, match=f"llama.{key} is {value}"):
            load_model(saved(tiny_family("llama").file, **{key: value}).open(tmp_path))
