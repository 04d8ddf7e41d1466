"""What `powerinfer download` refuses, in one line."""

import re
import socket
from pathlib import Path

import pytest

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.hub.api import Hub
from tests.helpers.download_cli import Cli, environment, run_once
from tests.helpers.hub_server import HubServer, Repo


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["o/gated"], r"o/gated is gated: accept its terms at http://127.0.0.1:\d+/o/gated, then give a token"),
        (["o/gated", "--token", "known"], "o/gated is gated and your token has no access"),
        (["o/gated", "--token", "wrong"], "the hub does not accept this token for o/gated"),
        (["o/private"], r"has no o/private, or it is private: check the name, or give a token"),
        (["o/nothing"], r"has no o/nothing, or it is private"),
        (["bamboo-7b"], r"holds 2 models, choose one with --quant or .*:QUANT: Q4_0 \(3 MB\), F16 \(200 bytes\)"),
        (["bamboo-7b:q5"], "no model of .* matches; it holds bamboo"),
        (["bamboo-7b", "--include", "*.bin"], r"no file of .* matches --include \*.bin"),
        (["o/huge"], r"8,000,000 TB are still to come and models/huge has [\d.]+ .B free: make room"),
        (["bamboo-7b:q4", "--local-dir", "a-file"], "cannot write to .*a-file.*: Not a directory"),
        (["bambo-7b"], "neither an alias nor OWNER/NAME"),
        (["o/-n"], "is no repository name"),
    ],
)
def test_errors_are_one_line(hub: HubServer, cli: Cli, tmp_path: Path, args: list[str], said: str) -> None:
    hub.token = "known"
    hub.repos |= {"o/gated": Repo({"x.gguf": b"GGUF"}, gated=True), "o/private": Repo({}, private=True)}
    hub.repos["o/huge"] = Repo({"x.gguf": b"GGUF"}, listed={"x.gguf": {"size": 8 * 10**18, "lfs": None}})
    (tmp_path / "a-file").touch()
    result = cli.run(tmp_path, *args)
    assert re.search(said, result.error), result
    assert result.out == ""
    assert "known" not in result.err
    assert not list(tmp_path.rglob("*.gguf*"))


@pytest.mark.parametrize(
    "args",
    [
        ["bamboo-7b:q4", "--quant", "f16"],
        ["bamboo-7b", "--quant", " "],
        ["bamboo-7b", "--token", "a\nb"],
        ["--lst"],
        ["o/n:"],
        ["https://huggingface.co/o/n"],
        ["--local-dir", "x"],
    ],
)
def test_usage_errors(cli: Cli, tmp_path: Path, args: list[str]) -> None:
    result = cli.run(tmp_path, *args)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("body", [b"<html>Log in to the hotel's network</html>", b"[]", b'{"id": 1, "siblings": 5}'])
def test_an_answer_that_is_no_hubs(hub: HubServer, cli: Cli, tmp_path: Path, body: bytes) -> None:
    hub.api_body = body
    assert "does not answer as a hub does" in cli.run(tmp_path, "bamboo-7b:q4").error


def test_no_hub_at_all(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        result = run_once(["bamboo-7b:q4"], tmp_path, environment(tmp_path, endpoint))
    assert re.fullmatch(rf"error: cannot reach {endpoint} \(.*refused.*\): check the connection", result.error)


@pytest.mark.parametrize("endpoint", ["", "huggingface.co", "ftp://h", "http://h:999999", "http://[h"])
def test_an_endpoint_that_is_no_address(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(PowerInferError, match=re.escape(f"HF_ENDPOINT is {endpoint!r}: it should be an address")):
        Hub()


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "sécret"])
def test_a_token_that_can_be_none_is_not_shown(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    with pytest.raises(UsageError, match="holds characters that no token has") as error:
        Hub(token)
    assert not token or token not in str(error.value)
