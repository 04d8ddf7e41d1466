"""What a program that imports the package gets: names, at no cost before a model is opened; the README's program."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import powerinfer_cli
from powerinfer_cli.model import sparse
from powerinfer_cli.opening import bundled_model
from tests.helpers.main_cli import powerinfer
from tests.helpers.placing.placed_model import budget, write_placed

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numba", "gguf", "huggingface_hub", "highspy", "transformers", "scipy")
LOADED = f"""
import json, sys
told = []
def tell():
    told.append([name for name in {HEAVY} if name in sys.modules])
"""


def loaded_by(*steps: str) -> list[list[str]]:
    """Which heavy libraries are there after each step, in a process of its own."""
    program = LOADED + "\ntell()\n".join([*steps, "print(json.dumps(told))"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


def test_public_names() -> None:
    assert set(powerinfer_cli.__all__) <= set(dir(powerinfer_cli))
    for name in powerinfer_cli.__all__:
        assert getattr(powerinfer_cli, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'open_modell'"):
        _ = powerinfer_cli.open_modell
    assert (files("powerinfer_cli") / "py.typed").is_file()


def test_nothing_heavy_is_imported() -> None:
    """On a machine without a GPU, and once kernels are compiled, not even by a model that writes and embeds."""
    steps = (
        "import powerinfer_cli; assert 'numpy' not in sys.modules",
        "from powerinfer_cli import open_model",
        "model = open_model(n_ctx=64, device='cpu')",
        "model.generate('Once', max_tokens=2).read(); model.chat([{'role': 'user', 'content': 'Hi'}], max_tokens=2)",
        "model.embed('Once'); model.close()",
    )
    first = loaded_by(*steps)  # compiles what is not compiled
    assert first[:2] == [[], []]
    assert loaded_by(*steps) == [[]] * len(steps)


def test_the_program_of_the_readme(tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("## From Python\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    program = "\n".join(blocks)
    ast.parse(program)
    (tmp_path / "model.gguf").symlink_to(bundled_model())
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r'^"(fox|bear)" stop \d+$', done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1].endswith(") (256,)")
    for name in re.findall(r"`(\w+)`", section.partition("| | |")[2].partition("\n\n")[0]):
        assert re.search(rf"\b{name}\b", _documented()), name


def _documented() -> str:
    model = powerinfer_cli.OpenModel
    parts = (powerinfer_cli.open_model, model, model.generate, model.chat, model.embed, powerinfer_cli.Answer)
    return "\n".join(
        [*(part.__doc__ or "" for part in parts), *dir(model), *powerinfer_cli.Answer.__dataclass_fields__]
    )


def test_keywords_are_documented() -> None:
    from powerinfer_cli.opening.sampling_wishes import SamplingWishes
    from powerinfer_cli.opening.wishes import ModelWishes

    for of, keywords in (
        (powerinfer_cli.open_model, ModelWishes.__annotations__),
        (powerinfer_cli.OpenModel.generate, SamplingWishes.__annotations__),
    ):
        for name in keywords:
            assert re.search(rf"\b{name}\b", of.__doc__ or ""), name


@pytest.mark.parametrize("command", ["main", "bench", "perplexity", "solve"])
def test_a_file_is_read_once(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever places, loads and counts has the same model."""
    path = write_placed(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was one fox.\n" * 12)
    flags = {
        "main": ["-p", "Once", "-n", "2"],
        "bench": ["-p", "0", "-n", "2", "-r", "1"],
        "perplexity": ["-f", str(text), "-c", "16"],
        "solve": ["--plan-only"],
    }[command]
    half = ["--device", "cpu", "--vram-budget", budget(path), "-t", "1"]
    calls = []
    read = sparse.read_model
    monkeypatch.setattr(sparse, "read_model", lambda gguf: calls.append(gguf) or read(gguf))
    assert powerinfer(command, "-m", str(path), *flags, *half).code == 0
    assert len(calls) == 1
