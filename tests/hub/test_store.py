"""The local folder of a download, without any hub."""

import json
from pathlib import Path

import pytest

from powerinfer_cli.commands.download.progress import Lines
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.hub.api import Hub, HubUnreachable, Listing, RemoteFile
from powerinfer_cli.hub.choice import MANIFEST
from powerinfer_cli.hub.request import Request, Wish, fetch, fetch_model
from powerinfer_cli.hub.store import Folder

FILE = RemoteFile("a.gguf", 4, "0" * 64, "blob")
LISTING = Listing("o/n", "main", "c" * 40, (FILE, RemoteFile("sub/b.json", 2)))


def complete(root: Path) -> Folder:
    folder = Folder.open(root, "o/n")
    folder.record(LISTING)
    folder.path(FILE).write_bytes(b"GGUF")
    folder.mark(FILE)
    return folder


def test_what_was_recorded_is_known_again(tmp_path: Path) -> None:
    complete(tmp_path)
    again = Folder.open(tmp_path, "o/n")
    assert again.listing == LISTING
    assert again.has(FILE)
    assert not again.has(RemoteFile("a.gguf", 4, "1" * 64))
    assert not again.has(RemoteFile("a.gguf", 5, "0" * 64))
    (tmp_path / "a.gguf").write_bytes(b"GGU")
    assert not again.has(FILE)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"listing": {"files": 3}}',
        b'{"listing": {}, "stamps": []}',
        b"[" * 100_000,
        json.dumps(
            {
                "listing": {"repo": "o/n", "revision": "m", "commit": "c", "files": [{"path": "../x", "size": 1}]},
                "stamps": {},
            }
        ).encode(),
    ],
)
def test_a_damaged_manifest_counts_as_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(damage)
    assert Folder.open(tmp_path, "o/n").listing is None


def test_another_repositorys_folder_is_left_alone(tmp_path: Path) -> None:
    complete(tmp_path)
    with pytest.raises(PowerInferError, match="holds files of o/n, not of p/n: choose another --local-dir"):
        Folder.open(tmp_path, "p/n")


def test_nothing_is_written_through_a_link_out_of_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "sub").symlink_to(tmp_path)
    folder = Folder.open(root, "o/n")
    for name in ("sub/b.json", "../b.json", "/b.json"):
        with pytest.raises(PowerInferError, match="would be written outside"):
            folder.path(RemoteFile(name, 1))


def test_a_partial_files_name_is_never_the_hubs_text(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path, "o/n")
    hostile = [folder.partial(RemoteFile("a.gguf", 4, None, text)) for text in ('W/"../../x', "\ud800", "", "x" * 9999)]
    assert {path.parent for path in hostile} == {tmp_path}
    assert len({path.name for path in hostile}) == 4
    assert max(len(path.name) for path in hostile) < 30


def test_a_models_folder_is_the_repositorys_name() -> None:
    assert Request("owner/Name-GGUF", Wish(), Path("x")).folder == Path("x/Name-GGUF")
    assert Request("owner/Name", Wish(), Path("~/x")).folder == Path.home() / "x" / "Name"


def test_fetch_model_needs_no_hub_for_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(tmp_path / "n")
    monkeypatch.setattr("powerinfer_cli.hub.request.Hub", None)
    with Lines() as watch:
        assert fetch_model("o/n", watch, local_dir=tmp_path) == tmp_path / "n" / "a.gguf"
        assert fetch_model("o/n", watch, local_dir=tmp_path, file="a.gguf") == tmp_path / "n" / "a.gguf"
        with pytest.raises(PowerInferError, match=r"no file of o/n matches --include b\.gguf"):
            fetch_model("o/n", watch, local_dir=tmp_path, file="b.gguf")


def test_download_uses_what_is_here_when_no_hub_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(*_: object) -> Listing:
        raise HubUnreachable("no hub today")

    monkeypatch.setattr(Hub, "listing", no_answer)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    complete(tmp_path / "n")
    notes: list[str] = []
    watch = Lines()
    monkeypatch.setattr(watch, "note", notes.append)
    fetched = fetch(Request("o/n", Wish(), tmp_path), watch)
    assert (fetched.models, fetched.new) == ((tmp_path / "n" / "a.gguf",), 0)
    assert notes == ["no hub today; all files are here already, from an earlier download"]
    for request in (Request("o/n", Wish(), tmp_path, revision="v2"), Request("o/n", Wish(include=("*",)), tmp_path)):
        with pytest.raises(HubUnreachable, match="no hub today"):
            fetch(request, watch)
