"""Importance as collected by the CPU's kernels, beside what torch models' matrices meet."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from powerinfer_cli.convert.collecting import Collection
from powerinfer_cli.convert.importance import read_importance
from powerinfer_cli.errors import PowerInferError
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.main_cli import powerinfer

OPTIONS = {"n_ctx": 96, "n_threads": 2}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def collected(folder: Path, name: str, **options: Any) -> Collection:
    collection, done = Collection(), list[int]()
    engine = tiny_family(name).file.engine(folder, **(OPTIONS | options))
    try:
        collection.collect(engine, [PROMPT, PROMPT[:9]], done.append)
    finally:
        engine.close()
    assert done == [1, 2]
    return collection


def test_dense_matrices(tmp_path: Path) -> None:
    model, met = tiny_family("gemma").torch_model, dict[str, np.ndarray]()
    hooks = []
    for layer, module in enumerate(model.model.layers):
        for part, name in NAMES.items():

            def keep(_: Any, given: Any, key: str = f"blk.{layer}.{name}.weight") -> None:
                met[key] = met.get(key, 0) + (given[0].detach().numpy()[0].astype(np.float64) ** 2).sum(0)

            hooks.append(module.get_submodule(part).register_forward_pre_hook(keep))
    with torch.no_grad():
        for ids in (PROMPT, PROMPT[:9]):
            model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    found = collected(tmp_path, "gemma").sums
    assert set(found) == set(met)
    for name, sums in met.items():
        np.testing.assert_array_equal(found[name].counts, [len(PROMPT) + 9])
        np.testing.assert_allclose(found[name].squares[0], sums, rtol=1e-3, atol=1e-6, err_msg=name)


def test_experts(tmp_path: Path) -> None:
    model = tiny_family("qwen3moe").torch_model
    sums: dict[str, np.ndarray] = {}

    def keep(experts: Any, given: Any, layer: int) -> None:
        x, chosen, _ = (one.detach() for one in given)
        for expert in range(experts.num_experts):
            mine = x[(chosen == expert).any(-1)]
            gate, up = torch.nn.functional.linear(mine, experts.gate_up_proj[expert]).chunk(2, dim=-1)
            middle = experts.act_fn(gate) * up
            for name, met in (("gate", mine), ("up", mine), ("down", middle)):
                key = f"blk.{layer}.ffn_{name}_exps.weight"
                total = sums.setdefault(key, np.zeros((experts.num_experts, met.shape[1] + 1)))
                total[expert, :-1] += (met.numpy().astype(np.float64) ** 2).sum(0)
                total[expert, -1] += len(met)

    hooks = [
        layer.mlp.experts.register_forward_pre_hook(lambda one, given, i=i: keep(one, given, i))
        for i, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        for ids in (PROMPT, PROMPT[:9]):
            model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    found = collected(tmp_path, "qwen3moe").sums
    assert sums
    for name, wanted in sums.items():
        np.testing.assert_array_equal(found[name].counts, wanted[:, -1], err_msg=name)
        np.testing.assert_allclose(found[name].squares, wanted[:, :-1], rtol=1e-3, atol=1e-6, err_msg=name)


def test_only_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match="leave out --reference"):
        collected(tmp_path, "gemma", reference=True)


def test_the_command(tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "imatrix.gguf"
    text.write_text("Once upon a time there was a little fox. " * 40)
    done = powerinfer("imatrix", "-f", str(text), "-o", str(out), "-c", "64", "--chunks", "2")
    assert (done.code, done.out) == (0, f"{out}\n")
    found = read_importance(out)
    assert found.n_chunks == 2
    assert found.datasets == (str(text),)
    assert {"blk.0.attn_q.weight", "blk.0.ffn_gate.weight", "blk.0.fc1.weight"} <= set(found.of)
    short = powerinfer("imatrix", "-f", str(text), "-o", str(out), "-c", "2048")
    assert short.code == 1
    assert "but a chunk has 2048" in short.err
    assert powerinfer("imatrix").code == 2


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("link.txt", "is the text itself"),
        ("model.gguf", "is the model itself"),
        ("none/i.gguf", "there is no folder"),
        (".", "is no ordinary file"),
    ],
)
def test_where_the_result_goes_is_checked_first(tmp_path: Path, output: str, reason: str) -> None:
    text, model = tmp_path / "text.txt", tmp_path / "model.gguf"
    text.write_text("Once upon a time")
    model.write_bytes(b"GGUF, if it were read")
    (tmp_path / "link.txt").hardlink_to(text)
    done = powerinfer("imatrix", "-m", str(model), "-f", str(text), "-o", str(tmp_path / output))
    assert done.code == 1
    assert reason in done.err
    assert text.read_text() == "Once upon a time"
