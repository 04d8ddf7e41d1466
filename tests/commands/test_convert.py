"""`powerinfer convert` as it is called."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from powerinfer_cli.gguf_io import open_gguf
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.download_cli import environment
from tests.helpers.hub_server import HubServer, Repo
from tests.helpers.main_cli import powerinfer
from tests.helpers.result import Result
from tests.helpers.tiny_models import tiny_model
from tests.helpers.tiny_tokenizers import TEXT, byte_level


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama with as many words as its tokenizer has."""
    import torch
    from transformers import LlamaForCausalLM

    config = tiny_model("llama").torch_model.config
    torch.manual_seed(1)
    made = LlamaForCausalLM(type(config)(**config.to_dict() | {"vocab_size": 300}))
    save_checkpoint(made, tmp_path / "tiny-300")
    for name, text in byte_level(300).items():
        (tmp_path / "tiny-300" / name).write_text(text)
    return tmp_path / "tiny-300"


def test_a_checkpoint_becomes_a_model_that_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    done = powerinfer("convert", "tiny-300", "-v")
    assert (done.code, done.out) == (0, "tiny-300-F16.gguf\n")
    assert "K dense: 2 layers, silu neurons" in done.err
    assert "blk.0.attn_q.weight: 64 x 64, F32 to F16" in done.err
    written = powerinfer("main", "-m", "tiny-300-F16.gguf", "-p", TEXT[:20], "-n", "4", "--temp", "0", "-c", "64")
    assert written.code == 0
    assert written.out.startswith(TEXT[:20])


def test_a_dry_run_writes_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = powerinfer("convert", str(folder), "-o", str(out), "--type", "q8_0", "--dry-run")
    assert (done.code, done.out) == (0, "")
    assert "Q8_0" in done.err
    assert "MiB in all" in done.err
    assert not out.exists()


def test_parts(folder: Path, tmp_path: Path) -> None:
    done = powerinfer("convert", str(folder), "-o", str(tmp_path / "p.gguf"), "--split-max-size", "100K")
    assert done.code == 0
    parts = [Path(line) for line in done.out.splitlines()]
    assert parts[0].name == f"p-00001-of-{len(parts):05d}.gguf"
    with open_gguf(parts[0]) as gguf:
        assert gguf.get("split.count", int) == len(parts) == len(gguf.files)


@pytest.mark.parametrize(
    ("args", "words", "code"),
    [
        ([], "which checkpoint?", 2),
        (["nowhere/x/y"], "there is no such folder", 1),
        (["{folder}/config.json"], "is a file; give the folder with config.json", 1),
        (["{folder}", "--split-max-size", "4T"], "a size, as 300M or 4G", 2),
        (["{folder}", "--split-max-size", "0"], "a size, as 300M or 4G", 2),
        (["{folder}", "--type", "q4_0"], "'q4_0' is not one of", 2),
        (["{folder}", "-o", "{folder}/model.safetensors"], "is a file of the checkpoint itself", 1),
        (["{folder}", "-o", "{folder}/no/such/x.gguf"], "cannot be written: No such file or directory", 1),
        (["{folder}", "-o", "{folder}"], "cannot be written: it is no ordinary file", 1),
        (["{folder}", "--predictors", "{folder}/none"], "neurons of silu are hardly ever 0", 1),
    ],
)
def test_what_cannot_be_done_is_one_line(args: list[str], words: str, code: int, folder: Path) -> None:
    before = sorted(folder.iterdir())
    done = powerinfer("convert", *(arg.format(folder=folder) for arg in args))
    assert words in done.error
    assert done.code == code
    assert sorted(folder.iterdir()) == before


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """As where a file may have no more than 50 kB."""
    limited = f"ulimit -f 50; exec {sys.executable} -m powerinfer_cli convert {folder} -o out.gguf"
    done = subprocess.run(
        ["sh", "-c", f"trap '' XFSZ; {limited}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "out.gguf: cannot be written: File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_nothing(number: signal.Signals, folder: Path, tmp_path: Path) -> None:
    """Stopped where the first bytes are written: the file lies in a pipe's way."""
    program = (
        "import os, signal, sys\n"
        "from powerinfer_cli.convert import converting\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which is ignored in a shell's background
        "def stop(change, pool):\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    raise AssertionError('went on')\n"
        "converting.retyped_stream = stop\n"
        "from powerinfer_cli.cli import run\n"
        f"sys.argv = ['powerinfer', 'convert', {str(folder)!r}, '-o', 'out.gguf']\n"
        "run()\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 128 + number
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def _of_hub(hub: HubServer, cwd: Path, *args: str) -> Result:
    """HF_ENDPOINT is read once, when huggingface_hub loads: in a process of its own."""
    command = [sys.executable, "-m", "powerinfer_cli", "convert", *args]
    env = environment(cwd, hub.url)
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=100, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def test_a_repository_of_the_hub(folder: Path, tmp_path: Path) -> None:
    """Only what is needed of it is fetched."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    others = {"pytorch_model.bin": b"x", "original/model.safetensors": b"x", "model.onnx": b"x"}
    with HubServer({"me/tiny": Repo(files | others), "me/gguf": Repo({"x.gguf": b"GGUF"})}) as hub:
        done = _of_hub(hub, tmp_path, "me/tiny", "-o", "out.gguf")
        assert (done.code, done.out) == (0, "out.gguf\n"), done
        none = _of_hub(hub, tmp_path, "me/gguf")
    fetched = {path.name for path in (tmp_path / "models" / "tiny").rglob("*") if path.is_file()}
    assert fetched == {*files, ".powerinfer-download.json"}
    assert "me/gguf has no config.json" in none.error
