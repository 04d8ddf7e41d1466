"""Models by name at the command line: list, show, rm, run, and -m NAME."""

import json
import os
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from powerinfer_cli.commands.run import app
from powerinfer_cli.commands.shared.flags.store import complete_model
from powerinfer_cli.hub.choice import MANIFEST
from tests.helpers.main_cli import powerinfer
from tests.helpers.word_model import ANSWER, word_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./models with one model that runs, as `download` and `solve` leave it, and one that does not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    words = tmp_path / "models" / "Words-GGUF"
    words.mkdir(parents=True)
    word_model().write(words / "words-Q4_0.gguf")
    (words / MANIFEST).write_text("{}")
    for name in ("activation", "predictor"):
        (words / name).mkdir()
        (words / name / "x_0.pt").write_bytes(b"0123456789")
    (words / "words-Q4_0.gguf.generated.gpuidx").write_bytes(b"PWRI")
    (tmp_path / "models" / "broken.gguf").write_bytes(b"GGUF")
    return tmp_path


def test_all_models_in_columns_and_as_json(folder: Path) -> None:
    page = powerinfer("list", "--no-speed")
    assert page.code == 0
    head, broken, words = page.out.splitlines()
    assert head.split() == ["NAME", "SIZE", "TYPE", "KIND", "CONTEXT", "BESIDE", "FITS", "TOKENS/S"]
    assert broken.split() == ["broken", "4", "bytes", "-", "does", "not", "run", "-", "-", "-", "-"]
    assert words.split()[0] == "Words-GGUF"
    assert "sparse, with predictors" in words
    assert "predictors, plan  yes" in words
    assert "broken: " in page.err
    found = {one["name"]: one for one in json.loads(powerinfer("list", "--no-speed", "--json").out)}
    assert found["broken"]["fault"]
    assert found["Words-GGUF"]["context"] == 128
    assert found["Words-GGUF"]["tokens_per_second"] is None


def test_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    page = powerinfer("list")
    assert (page.code, page.out) == (0, "")
    assert "no models here" in page.err
    assert powerinfer("list", "--models-dir", "gone").error == (
        "error: gone: not a folder: give one that holds GGUF files"
    )


def test_one_model_with_its_speed(folder: Path) -> None:
    page = powerinfer("show", "words")
    assert page.code == 0
    assert f"file:     {Path('models/Words-GGUF/words-Q4_0.gguf')}" in page.out
    [speed] = [line for line in page.out.splitlines() if line.startswith("speed:")]
    assert float(speed.split()[1]) > 0
    broken = powerinfer("show", "broken")
    assert broken.code == 1
    assert "does not run here: " in broken.out
    assert powerinfer("show", "gone").error == (
        "error: 'gone' is no file, nor a model here: `powerinfer list` shows them"
    )
    assert powerinfer("show").code == 2


def test_what_goes_with_a_model_goes_when_it_was_alone(folder: Path) -> None:
    words = folder / "models" / "Words-GGUF"
    (words / "notes.txt").write_text("mine")
    refused = powerinfer("rm", "words")
    assert "was not deleted: nobody can be asked here; -y deletes without asking" in refused.error
    assert (words / "words-Q4_0.gguf").exists()
    size = (words / "words-Q4_0.gguf").stat().st_size
    done = powerinfer("rm", "words", "-y")
    assert done.code == 0
    assert "freed" in done.err
    assert size > 0
    assert sorted(path.name for path in words.iterdir()) == ["notes.txt"]
    assert (folder / "models" / "broken.gguf").exists()


def test_a_model_beside_others_takes_only_its_own(folder: Path) -> None:
    words = folder / "models" / "Words-GGUF"
    word_model().write(words / "words-Q8_0.gguf")
    assert powerinfer("rm", "Words-GGUF:Q4_0", "-y").code == 0
    left = {path.name for path in words.iterdir()}
    assert left == {"words-Q8_0.gguf", "activation", "predictor", MANIFEST}
    assert powerinfer("rm", "Words-GGUF", "-y").code == 0
    assert not words.exists()


def test_a_link_of_the_hubs_cache_goes_with_its_content(folder: Path) -> None:
    repository = folder / "hub" / "models--me--it"
    snapshot = repository / "snapshots" / "abc"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "blobs" / "0123").write_bytes(b"GGUF")
    (snapshot / "it-Q4_0.gguf").symlink_to(Path("../../blobs/0123"))
    elsewhere = folder / "elsewhere.gguf"
    elsewhere.write_bytes(b"GGUF")
    (folder / "models" / "link.gguf").symlink_to(elsewhere)
    assert powerinfer("rm", "me/it", "-y").code == 0
    assert not list(snapshot.iterdir())
    assert not list((repository / "blobs").iterdir())
    assert powerinfer("rm", "link", "-y").code == 0
    assert elsewhere.exists()


def test_names_steer_no_terminal(folder: Path) -> None:
    for name in (b"red\x1b[31m.gguf", b"bytes\xff.gguf", b"two\nlines.gguf"):
        Path(os.fsdecode(os.fsencode(folder / "models") + b"/" + name)).write_bytes(b"GGUF")
    for begun, shown in (("red", "red?[31m"), ("bytes", "bytes?"), ("two", "two?lines")):
        told = powerinfer("show", begun)
        assert f"name:     {shown}" in told.out.splitlines()
        left = powerinfer("rm", begun)
        assert left.err.splitlines()[0] == f"models/{shown}.gguf"
        assert powerinfer("rm", begun, "-y").code == 0
        for text in (told.out, left.err):
            assert all(line.isprintable() for line in text.splitlines())


def test_running_by_name(folder: Path) -> None:
    quiet = ("-t", "1", "--temp", "0", "--log-disable")
    answer = powerinfer("run", "words", "Hi", *quiet)
    assert (answer.code, answer.out.strip()) == (0, ANSWER)
    text = powerinfer("run", "words", "Once upon", "-no-cnv", "-n", "2", *quiet)
    assert text.out.strip() == "Once upon a time"
    assert powerinfer("main", "-m", "words", "-p", "Once upon", "-n", "2", *quiet).out == text.out
    elsewhere = ("--models-dir", str((folder / "models").rename(folder / "my models")))
    shown = powerinfer("show", "words", "--no-speed", *elsewhere).out.splitlines()[-1]
    assert shown == f"run:      powerinfer run Words-GGUF --models-dir {shlex.quote(elsewhere[1])}"
    assert powerinfer("run", "words", "Once upon", "-no-cnv", "-n", "2", *elsewhere, *quiet).out == text.out
    assert "which model?" in powerinfer("run").error
    assert powerinfer("run", "--help").code == 0


def test_names_and_paths_are_completed(folder: Path) -> None:
    assert complete_model("wor") == ["Words-GGUF"]
    assert complete_model("models/") == ["models/Words-GGUF/", "models/broken.gguf"]


def test_the_name_of_run_is_completed_and_its_prompt_is_not(folder: Path) -> None:
    command = get_command(app)
    for before, found in (([], ["Words-GGUF"]), (["words"], [])):
        context = command.make_context("run", list(before), resilient_parsing=True)
        assert [one.value for one in command.shell_complete(context, "Wor")] == found
