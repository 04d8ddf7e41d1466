"""Files of encoders with something spoilt: a line that names it, or a model that runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from powerinfer_cli.model import load_model
from powerinfer_cli.model.key_table import NEUTRAL
from tests.helpers.families.encoders import ENCODERS, RERANKERS, tiny_encoder
from tests.model.test_spoilt_families import refusal, with_keys, with_tensors

# Without these a file is another model, as good as this one, as it is to llama.cpp.
OPTIONAL = ("token_types.weight", "cls.bias", "cls.output.bias", "cls.norm.weight")
ANY_ROWS = ("token_types.weight", "position_embd.weight", "cls.weight", "cls.output.weight")


@pytest.mark.parametrize("name", ENCODERS)
def test_each_tensor_is_needed_and_has_its_shape(name: str, tmp_path: Path) -> None:
    gguf = tiny_encoder(name).file.open(tmp_path)
    for left_out, tensor in gguf.tensors.items():
        message = refusal(with_tensors(gguf, {n: t for n, t in gguf.tensors.items() if n != left_out}))
        assert left_out in message or left_out in OPTIONAL or (left_out.startswith("cls.") and "cls." in message)
        wider = (*tensor.shape[:-1], tensor.shape[-1] + 1)
        message = refusal(with_tensors(gguf, {**gguf.tensors, left_out: replace(tensor, shape=wider)}))
        assert f"{left_out} has shape {' x '.join(map(str, wider))}, but" in message or left_out in ANY_ROWS


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in RERANKERS])
def test_no_key_that_changes_something_is_passed_over(name: str, tmp_path: Path) -> None:
    gguf = tiny_encoder(name).file.open(tmp_path)
    arch, plain = gguf.get("general.architecture", str), load_model(gguf)
    for key in NEUTRAL:
        message = refusal(changed := with_keys(gguf, {f"{arch}.{key}": 7}))
        assert f"{arch}.{key}" in message or (not message and load_model(changed) != plain)
