"""Names of models on this machine."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.hub.local import StoredModel, find_stored, hub_cache, named_model, stored_models


def files(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")
    return folder


def names(models: list[StoredModel]) -> list[str]:
    return [model.name for model in models]


def found(folder: Path, cache: Path | None = None) -> list[StoredModel]:
    return stored_models([folder], cache, _no_note)


def _no_note(line: str) -> None:
    raise AssertionError(line)


def test_names_are_of_files_or_of_their_folders(tmp_path: Path) -> None:
    files(
        tmp_path,
        "plain.gguf",
        "story.powerinfer.gguf",
        "alone/model-Q4_0.gguf",
        "types/m-Q4_0.gguf",
        "types/m-Q8_0.gguf",
        "twins/m.gguf",
        "twins/m.powerinfer.gguf",
        "split/big-00001-of-00002.gguf",
        "split/big-00002-of-00002.gguf",
        "vision/mmproj-F16.gguf",
        "vision/eyes.gguf",
        "imatrix.gguf",
        "notes.txt",
    )
    with pytest.raises(AssertionError, match="two models are called twins/m: "):
        found(tmp_path)
    (tmp_path / "twins" / "m.powerinfer.gguf").rename(tmp_path / "twins" / "n.powerinfer.gguf")
    models = found(tmp_path)
    assert names(models) == [
        "alone",
        "plain",
        "split",
        "story",
        "twins/m",
        "twins/n",
        "types:Q4_0",
        "types:Q8_0",
        "vision",
    ]
    [split] = [model for model in models if model.name == "split"]
    assert (len(split.files), split.size, split.missing) == (2, 8, 0)


def test_a_name_that_two_have_is_said_and_both_are_there(tmp_path: Path) -> None:
    files(tmp_path, "one.gguf", "one.powerinfer.gguf")
    told: list[str] = []
    models = stored_models([tmp_path], None, told.append)
    assert [model.path.name for model in models if model.name == "one"] == ["one.gguf"]
    assert len(models) == 2
    assert told == [
        f"two models are called one: {tmp_path}/one.gguf is; the other is {tmp_path.as_posix()}/one.powerinfer"
    ]


def test_the_hubs_cache(tmp_path: Path) -> None:
    old, new = ("models--me--it-GGUF/snapshots/" + name for name in ("old", "new"))
    files(tmp_path, f"{old}/it-Q4_0.gguf")
    (tmp_path / old).touch()
    files(tmp_path, f"{new}/it-Q4_0.gguf", f"{new}/it-Q8_0.gguf", f"{new}/odd.gguf", "models--me--empty/refs/x.gguf")
    assert names(stored_models([], tmp_path, _no_note)) == ["me/it-GGUF:odd", "me/it-GGUF:Q4_0", "me/it-GGUF:Q8_0"]


def test_where_the_hubs_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub_cache() == Path.home() / ".cache/huggingface/hub"
    monkeypatch.setenv("HF_HOME", "/somewhere")
    assert hub_cache() == Path("/somewhere/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/elsewhere")
    assert hub_cache() == Path("/elsewhere")


def test_links_in_circles_and_folders_of_others(tmp_path: Path) -> None:
    files(tmp_path, "a/one.gguf", "b/two.gguf", "deep/1/2/3/4/five.gguf", ".hidden/six.gguf")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nowhere")
    assert names(found(tmp_path)) == ["a", "b", "gone"]


def test_two_links_to_nothing_of_one_name(tmp_path: Path) -> None:
    for name in ("a.gguf", "a/x.gguf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to("/nowhere")
    told: list[str] = []
    assert len(stored_models([tmp_path], None, told.append)) == 2
    assert len(told) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="files' names are text elsewhere")
def test_a_folder_twice_and_a_name_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nowhere")
    (tmp_path / os.fsdecode(b"od\xffd.gguf")).write_bytes(b"GGUF")
    assert names(stored_models([tmp_path, tmp_path], None, _no_note)) == ["gone", "od?d"]


def test_a_folder_within_that_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A superuser is refused nothing: the refusal is played."""
    files(tmp_path, "open.gguf", "closed/in.gguf")
    look = Path.iterdir

    def refused(path: Path) -> Iterator[Path]:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    told: list[str] = []
    assert names(stored_models([tmp_path], None, told.append)) == ["open"]
    assert told == [f"{tmp_path / 'closed'}: cannot be read, and is left out: Permission denied"]


def test_folders_that_cannot_be_looked_through(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match=r"gone: not a folder: give one that holds GGUF files"):
        found(tmp_path / "gone")


MODELS = [
    StoredModel(name, (Path(f"/{index}.gguf"),), 1)
    for index, name in enumerate(["Bamboo", "me/Qwen-GGUF:Q4_0", "me/Qwen-GGUF:Q8_0", "SmolLM2-135M-Instruct-GGUF"])
]


@pytest.mark.parametrize(
    ("given", "index"),
    [("bamboo", 0), ("bam", 0), ("me/qwen-gguf:q8_0", 2), ("smollm2-135m", 3), ("SmolLM2-135M-Instruct-GGUF", 3)],
)
def test_what_a_name_means(given: str, index: int) -> None:
    assert find_stored(given, MODELS) is MODELS[index]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("me/qwen", "'me/qwen' may be me/Qwen-GGUF:Q4_0 or me/Qwen-GGUF:Q8_0: say which"),
        ("qwen", "'qwen' may be me/Qwen-GGUF:Q4_0 or me/Qwen-GGUF:Q8_0: say which"),
        ("bambou", "'bambou' is no file, nor a model here; did you mean Bamboo?"),
        ("llama", "'llama' is no file, nor a model here: `powerinfer list` shows them"),
    ],
)
def test_names_that_mean_nothing_or_too_much(given: str, message: str) -> None:
    with pytest.raises(PowerInferError) as error:
        find_stored(given, MODELS)
    assert str(error.value) == message


def test_paths_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    files(tmp_path, "models/one/a.gguf", "one")
    assert named_model(Path("one")) == Path("one")  # a file of that name is meant first
    (tmp_path / "one").unlink()
    assert named_model(Path("one")) == Path("models/one/a.gguf")
    for given in ("gone.gguf", "/no/such/model"):
        assert named_model(Path(given)) == Path(given)
