"""Checkpoints to files: what a tiny model becomes, and what is wrong with bad ones."""

import json
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from powerinfer_cli.convert.checkpoint import open_checkpoint
from powerinfer_cli.convert.converting import convert_checkpoint, write_converted
from powerinfer_cli.convert.out_type import OutType
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, open_gguf
from powerinfer_cli.runtime import Engine, EngineOptions
from tests.helpers.tiny_models import PROMPT, reference_logits, tiny_model
from tests.helpers.tiny_tokenizers import byte_level

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


@cache
def _files() -> dict[str, bytes]:
    """Of a tiny Llama with a tokenizer."""
    import tempfile
    from contextlib import redirect_stderr
    from io import StringIO

    with tempfile.TemporaryDirectory() as scratch, redirect_stderr(StringIO()):
        tiny_model("llama").torch_model.save_pretrained(scratch)
        saved = {path.name: path.read_bytes() for path in Path(scratch).iterdir()}
    config = json.loads(saved[CONFIG]) | {"vocab_size": 96}
    tokenizer = {name: text.encode() for name, text in byte_level(96).items()}
    return saved | tokenizer | {CONFIG: json.dumps(config).encode()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Without a vocabulary that would not fit 96 tokens."""
    made = tmp_path / "tiny"
    made.mkdir()
    for name, data in _files().items():
        (made / name).write_bytes(data)
    return made


def _converted(folder: Path, wanted: OutType = OutType.F32) -> Any:
    return convert_checkpoint(open_checkpoint(folder), wanted, vocabulary=False)


def _sharded(folder: Path, *, pickled: bool = False) -> Path:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    name, save = ("pytorch_model", torch.save) if pickled else ("model", save_file)
    ending = "bin" if pickled else "safetensors"
    places = {}
    for number, half in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        part = f"{name}-{number + 1:05d}-of-00002.{ending}"
        save({key: tensors[key] for key in half}, folder / part)
        places |= dict.fromkeys(half, part)
    (folder / f"{name}.{ending}.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.mark.parametrize("form", ["single", "sharded", "pickled", "pickled and sharded"])
def test_logits_are_those_of_transformers(form: str, folder: Path) -> None:
    if form.endswith("sharded"):
        _sharded(folder, pickled=form.startswith("pickled"))
    elif form == "pickled":
        torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()
    (path,) = write_converted(_converted(folder), folder / "out.gguf")
    with open_gguf(path) as gguf:
        engine = Engine.load(gguf, EngineOptions(n_ctx=64, n_threads=1, type_k="f32", type_v="f32"))
        expected = reference_logits(tiny_model("llama").torch_model, PROMPT)
        np.testing.assert_allclose(engine.logits(PROMPT), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("wanted", "kind", "number"),
    [
        (OutType.F32, GGMLType.F32, 0),
        (OutType.F16, GGMLType.F16, 1),
        (OutType.BF16, GGMLType.BF16, 32),
        (OutType.Q8_0, GGMLType.Q8_0, 7),
        (OutType.AUTO, GGMLType.F16, 1),
    ],
)
def test_types(wanted: OutType, kind: GGMLType, number: int, folder: Path) -> None:
    converted = _converted(folder, wanted)
    (path,) = write_converted(converted, folder / "out.gguf", threads=2)
    with open_gguf(path) as gguf:
        assert gguf.get("general.file_type", int) == number
        assert gguf.tensors["blk.0.attn_q.weight"].type is kind
        assert gguf.tensors["blk.0.attn_norm.weight"].type is GGMLType.F32
        short = GGMLType.F16 if wanted is OutType.Q8_0 else kind  # rows of 112 are no whole blocks
        assert gguf.tensors["blk.0.ffn_down.weight"].type is short
    noted = "2 tensors are F16 for Q8_0, whose blocks do not divide rows of 112"
    assert converted.notes == ((noted,) if wanted is OutType.Q8_0 else ())


def test_a_checkpoint_of_16_bits_stays_one(folder: Path) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(halves, folder / WEIGHTS)
    converted = _converted(folder, OutType.AUTO)
    assert converted.file_name == "tiny-BF16.gguf"
    (path,) = write_converted(converted, folder / "out.gguf")
    with open_gguf(path) as gguf:
        down = halves["model.layers.1.mlp.down_proj.weight"]
        assert bytes(gguf.tensors["blk.1.ffn_down.weight"].data) == down.view(torch.uint8).numpy().tobytes()


def test_parts(folder: Path) -> None:
    whole = write_converted(_converted(folder), folder / "out.gguf")
    parts = write_converted(_converted(folder), folder / "out.gguf", most_bytes=100_000)
    assert [path.name for path in parts] == [f"out-{i + 1:05d}-of-{len(parts):05d}.gguf" for i in range(len(parts))]
    assert len(parts) > 2
    with open_gguf(whole[0]) as a, open_gguf(parts[1]) as b:
        assert list(a.tensors) == list(b.tensors)
        assert all(np.array_equal(tensor.data, b.tensors[name].data) for name, tensor in a.tensors.items())
        assert all(sum(t.nbytes for t in b.tensors.values() if t.path == part) <= 100_000 for part in parts)


def _changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def _config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / CONFIG).read_text()) | values
    (folder / CONFIG).write_text(json.dumps(config))


class _Code:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code was run",)


def _pickle_with_code(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"model.norm.weight": _Code()}, folder / "pytorch_model.bin")


def _old_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Code()))


def _zip_of_nothing(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("data.pkl", b"")


UP = "model.layers.1.mlp.up_proj.weight"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), "has no config.json"),
    "config that is no JSON": (lambda f: (f / CONFIG).write_text("{"), "config.json: is not JSON"),
    "config of a list": (lambda f: (f / CONFIG).write_text("[]"), "is not a JSON object"),
    "config of NaN": (lambda f: (f / CONFIG).write_text('{"rms_norm_eps": NaN}'), "NaN is no JSON number"),
    "ropes that are no objects": (
        lambda f: _config(f, rope_parameters={"full_attention": 5}),
        "full_attention and sliding_attention are no objects",
    ),
    "a number beyond all": (lambda f: _config(f, rms_norm_eps=10**400), "rms_norm_eps is .*, not a number"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "neither model.safetensors nor pytorch_model.bin"),
    "no index": (
        lambda f: (f / WEIGHTS).rename(f / "model-00001-of-00002.safetensors"),
        "no model.safetensors.index.json",
    ),
    "a part missing": (
        lambda f: (_sharded(f) / "model-00002-of-00002.safetensors").unlink(),
        "model-00002-of-00002.safetensors: this part of the checkpoint is missing",
    ),
    "an index of elsewhere": (
        lambda f: (f / INDEX).write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}})),
        "names files outside the folder",
    ),
    "an index that names too much": (
        lambda f: (f / INDEX).write_text(json.dumps({"weight_map": {"x": WEIGHTS}})),
        "which model.safetensors.index.json does not say",
    ),
    "a tensor missing": (
        lambda f: _changed(f, lambda t: t.pop(UP)),
        rf"tensor blk.1.ffn_up.weight is missing \({UP} in the checkpoint\)",
    ),
    "a tensor too many": (
        lambda f: _changed(f, lambda t: t.update({"model.layers.0.mlp.extra.weight": torch.ones(3)})),
        "unexpected tensor 'model.layers.0.mlp.extra.weight'",
    ),
    "a shape that does not fit": (
        lambda f: _changed(f, lambda t: t.update({UP: torch.ones(5, 64)})),
        rf"blk.1.ffn_up.weight has shape 5 x 64, but the metadata asks for 112 x 64 \({UP} in the checkpoint\)",
    ),
    "rows that are no whole heads": (
        lambda f: _changed(f, lambda t: t.update({"model.layers.0.self_attn.q_proj.weight": torch.ones(63, 64)})),
        "has shape 63 x 64, which config.json does not allow",
    ),
    "whole numbers": (
        lambda f: _changed(f, lambda t: t.update({UP: torch.ones(112, 64, dtype=torch.int64)})),
        "is of type I64: no weights",
    ),
    "a width that is no number": (lambda f: _config(f, hidden_size="64"), "hidden_size is '64', not a whole number"),
    "a width beyond all": (lambda f: _config(f, hidden_size=1 << 40), "not a whole number"),
    "no layers": (lambda f: _config(f, num_hidden_layers=0), "num_hidden_layers is 0"),
    "more layers than there are": (lambda f: _config(f, num_hidden_layers=3), "tensor blk.2.* is missing"),
    "heads of nothing": (lambda f: _config(f, head_dim=0), "does not allow|head"),
    "no class": (lambda f: _config(f, architectures=None), "architectures is missing or empty"),
    "an unknown class": (
        lambda f: _config(f, architectures=["NovelForCausalLM"], auto_map={"AutoModel": "modeling.X"}),
        "'NovelForCausalLM' cannot be converted; its own code is not run; known are ",
    ),
    "a pickle with code": (_pickle_with_code, "not weights that torch.save wrote"),
    "an old pickle with code": (_old_pickle, "not weights that torch.save wrote"),
    "a pickle of nothing": (_zip_of_nothing, "not weights that torch.save wrote"),
    "a file cut short": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]),
        "behind its header: cut short",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoints(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, words = BAD[name]
    spoil(folder)
    with pytest.raises(PowerInferError, match=words) as error:
        _converted(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert "code was run" not in "".join(capsys.readouterr())


def test_a_file_of_the_checkpoint_is_not_written_over(folder: Path) -> None:
    before = (folder / WEIGHTS).read_bytes()
    (folder / "link.gguf").symlink_to(folder / WEIGHTS)
    (folder / "tokenizer.json").touch()
    for name in (WEIGHTS, CONFIG, "tokenizer.json", "link.gguf"):
        with pytest.raises(PowerInferError, match="a file of the checkpoint itself"):
            write_converted(_converted(folder), folder / name)
    assert (folder / WEIGHTS).read_bytes() == before
