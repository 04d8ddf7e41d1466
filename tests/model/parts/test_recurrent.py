"""Files of recurrent layers: keys, lists of layers and tensors that contradict each other, each in one line."""

from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import load_model
from tests.helpers.families import tiny_family


def refusal(name: str, folder: Path, keys: dict[str, Any]) -> str:
    with pytest.raises(PowerInferError) as caught:
        load_model(tiny_family(name).file.with_metadata(**keys).open(folder))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "lfm2",
            {"shortconv__l_cache": 3},
            "shortconv.conv.weight has shape 72 x 4, but lfm2.shortconv.l_cache asks for 3",
        ),
        ("qwen35", {"ssm__state_size": 12}, "qwen35.ssm.time_step_rank times qwen35.ssm.state_size is 48"),
        (
            "qwen35",
            {"ssm__state_size": 12, "ssm__inner_size": 48},
            "ssm_norm.weight has shape 24, but qwen35.ssm.state_size asks for 12",
        ),
        (
            "qwen35",
            {"ssm__time_step_rank": 8, "ssm__inner_size": 192},
            "ssm_a has shape 4, but qwen35.ssm.time_step_rank asks for 8",
        ),
        ("qwen35", {"ssm__group_count": 3}, "ssm.time_step_rank 4 is not a multiple of qwen35.ssm.group_count 3"),
        (
            "qwen35",
            {"ssm__group_count": 1},
            "attn_qkv.weight has shape 192 x 64, but qwen35.ssm.group_count asks for 144",
        ),
        (
            "qwen35",
            {"ssm__conv_kernel": 5},
            "ssm_conv1d.weight has shape 192 x 4, but qwen35.ssm.conv_kernel asks for 5",
        ),
        (
            "mamba2",
            {"ssm__state_size": 10},
            "ssm_conv1d.weight has shape 224 x 4, but mamba2.ssm.state_size asks for 184",
        ),
        ("mamba2", {"ssm__time_step_rank": 12}, "ssm_a has shape 6 x 1, but mamba2.ssm.time_step_rank asks for 12"),
        (
            "mamba2",
            {"ssm__inner_size": 288},
            "ssm_out.weight has shape 72 x 144, but mamba2.ssm.inner_size asks for 288",
        ),
    ],
)
def test_sizes_that_contradict_tensors(tmp_path: Path, name: str, keys: dict[str, Any], message: str) -> None:
    assert message in refusal(name, tmp_path, keys)


@pytest.mark.parametrize(
    ("listed", "every", "message"),
    [
        ([True, False, True, True], 3, "full_attention_interval is 3, but qwen35.attention.recurrent_layers says"),
        ([True, False, False, True], None, "layer 1 is no recurrent one, but its tensors say otherwise"),
        ([True, True, True, True], None, "layer 2 is a recurrent one, but its tensors say otherwise"),
        ([True, True, False], None, "recurrent_layers is not one flag for each of 4 layers"),
        (None, 2, "tensor blk.1.attn_q_norm.weight is missing"),
    ],
)
def test_lists_that_contradict_keys_and_tensors(
    tmp_path: Path, listed: list[bool] | None, every: int | None, message: str
) -> None:
    keys = {"attention__recurrent_layers": listed, "full_attention_interval": every}
    assert message in refusal("qwen35", tmp_path, keys)
