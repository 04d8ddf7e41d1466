"""`powerinfer inspect`: whole files, broken ones, and words that would steer a terminal."""

import json
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType, open_gguf, rewrite_gguf, streamed, write_gguf
from powerinfer_cli.opening import bundled_model
from tests.helpers.main_cli import powerinfer


def test_a_model() -> None:
    path = bundled_model()
    page = powerinfer("inspect", str(path), "--tensors")
    assert page.code == 0
    for words in ("PowerInfer GGUF version 3", "sparse, with predictors", "blk.0.fc1.weight", "bytes read for a token"):
        assert words in page.out
    found = json.loads(powerinfer("inspect", str(path), "--json").out)
    assert found["fault"] is found["refused"] is None
    assert found["file"]["magic"] == "PWRI"
    assert found["model"]["parameters"] == sum(int(np.prod(one["shape"])) for one in found["tensors"])
    assert found["model"]["layers"] == found["metadata"]["llama.block_count"]["value"]
    assert found["tokenizer"]["tokens"] == found["model"]["vocabulary"]
    assert 0 < found["model"]["bytes_of_neurons"] < found["model"]["bytes_per_token"] < path.stat().st_size


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    path = tmp_path / "strange.gguf"
    keys = {"a.text": "red \x1b[31m \x9b31m \u202e\u2028", "a.number": float("nan"), "a.many": list(range(100))}
    tensors = [("x.weight", np.ones((4, 64), np.float32), GGMLType.F16)]
    write_gguf(path, arch="unheard", metadata=keys, tensors=tensors, sparse=False)
    return path


def test_what_does_not_run(strange: Path) -> None:
    page = powerinfer("inspect", str(strange))
    assert page.code == 0
    assert page.out.replace("\n", "").isprintable()
    assert "does not run here" in page.out
    assert "100 items: 0, 1, 2, 3, 4, 5, 6, 7, ..." in page.out
    as_json = powerinfer("inspect", str(strange), "--json").out
    assert as_json.replace("\n", "").isprintable()
    found = json.loads(as_json)
    assert found["metadata"]["a.number"]["value"] == "nan"
    assert found["model"] is None
    assert "'unheard' is not supported" in found["refused"]


def test_a_model_without_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "mute.gguf"
    with open_gguf(bundled_model()) as gguf:
        tensors = [streamed(tensor) for tensor in gguf.tensors.values()]
        rewrite_gguf(gguf, path, dropped=("tokenizer.",), added={}, tensors=tensors, sparse=True)
    assert "does not run here: " in powerinfer("inspect", str(path)).out
    assert "holds no vocabulary" in json.loads(powerinfer("inspect", str(path), "--json").out)["refused"]


@pytest.mark.parametrize(("kept", "metadata", "tensors"), [(80, 1, 0), (-200, 4, 1), (200, 3, 0)])
def test_a_broken_file_as_far_as_it_goes(strange: Path, kept: int, metadata: int, tensors: int) -> None:
    data = strange.read_bytes()
    strange.write_bytes(data[:kept])
    done = powerinfer("inspect", str(strange), "--json")
    found = json.loads(done.out)
    assert done.code == 1
    assert "cut short" in found["fault"]
    assert (len(found["metadata"]), len(found["tensors"])) == (metadata, tensors)
    page = powerinfer("inspect", str(strange))
    assert (page.code, page.out.count("broken: ")) == (1, 1)


def test_no_file_and_none_of_this_kind(tmp_path: Path) -> None:
    assert powerinfer("inspect").code == 2
    (tmp_path / "a.gguf").write_bytes(b"<html>")
    done = powerinfer("inspect", str(tmp_path / "a.gguf"))
    assert (done.code, done.out) == (1, "")
    assert "it looks like a web page" in done.err
