"""Who may come in to a real server, and how patient it is: keys, CORS, routes that are not there, bad requests."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from openai import AuthenticationError

from tests.helpers.server_process import RunningServer
from tests.serving.conftest import Servers

KEY = "sk-secret"


@pytest.fixture(scope="session")
def strict(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    """One that is impatient, wants a key, hides what it can, and logs JSON."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# a comment\n\n{KEY}\nsk-other\n")
    flags = ["--api-key-file", str(keys), "--timeout", "1", "--no-slots", "--cors-origins", "localhost"]
    flags += ["--log-format", "json", "-np", "1", "-c", "256", "-t", "1", "--no-ui", "--alias", "b,a"]
    return servers(*flags)


@pytest.fixture
def keyed(strict: RunningServer) -> Iterator[httpx.Client]:
    with strict.new_client(KEY) as client:
        yield client


def error_of(answer: httpx.Response, status: int) -> str:
    """Its message; all of it must be as llama-server's errors are."""
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == status
    assert isinstance(error["type"], str)
    message = error["message"]
    assert isinstance(message, str)
    assert message
    assert "\n" not in message
    return message


def test_keys(strict: RunningServer, keyed: httpx.Client) -> None:
    with strict.new_client() as stranger:
        assert stranger.get("/health").status_code == 200
        for method, path in (("GET", "/v1/models"), ("POST", "/completions"), ("GET", "/nowhere"), ("GET", "/")):
            error_of(stranger.request(method, path), 401)
        assert stranger.options("/completions").status_code == 200
        assert stranger.get("/props", headers={"X-Api-Key": "sk-other"}).status_code == 200
    assert keyed.get("/v1/models").json()["data"][0]["aliases"] == ["a", "b"]
    with strict.openai("wrong") as client, pytest.raises(AuthenticationError):
        client.models.list()


def test_what_is_hidden(keyed: httpx.Client) -> None:
    assert "--slots" in error_of(keyed.get("/slots"), 501)
    assert "--metrics" in error_of(keyed.get("/metrics"), 501)
    assert "--props" in error_of(keyed.post("/props", json={}), 501)
    assert "--slot-save-path" in error_of(keyed.post("/slots/0?action=erase"), 501)
    assert error_of(keyed.get("/"), 404) == "File Not Found"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nowhere"), ("GET", "/tokenize"), ("POST", "/health"), ("DELETE", "/props"), ("GET", "/health/")],
)
def test_what_is_not_there(client: httpx.Client, method: str, path: str) -> None:
    assert error_of(client.request(method, path), 404) == "File Not Found"


def test_cors(client: httpx.Client, keyed: httpx.Client, strict: RunningServer) -> None:
    evil, ours = {"Origin": "http://localhost.evil.com"}, {"Origin": "http://localhost:3000"}
    for one in (client, keyed):
        answer = one.options("/completions", headers=ours | {"Access-Control-Request-Method": "POST"})
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
        assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE, OPTIONS"
        assert one.get("/nowhere", headers=ours).headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
        assert "Access-Control-Allow-Origin" not in one.get("/props", headers=evil).headers
    asked = {"prompt": "a", "n_predict": 1}
    assert "--cors-origins" in error_of(client.post("/completion", json=asked, headers=evil), 403)
    assert client.post("/completion", json=asked, headers=ours).status_code == 200
    assert client.post("/completion", json=asked, headers={"Origin": str(client.base_url)}).status_code == 200
    assert keyed.post("/completion", json=asked, headers=evil).status_code == 200


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"content":', "JSON"),
        ("", "body"),
        ("[1]", "body"),
        ('{"content": 1.5}', '"content"'),
        ('{"content": "x", "add_special": "yes"}', '"add_special"'),
        ('{"content": [{"a": 1}]}', '"content'),
        ('{"content": -1}', "-1"),
        ('{"content": 99999999999999999999999999}', "9999"),
        ("[" * 100_000, "JSON"),
        ("\xff", "JSON"),
    ],
)
def test_bad_requests_name_what_is_wrong(client: httpx.Client, content: str, words: str) -> None:
    assert words in error_of(client.post("/tokenize", content=content.encode("latin-1")), 400)
    assert client.get("/health").status_code == 200


def test_text_that_is_none_is_read_somehow(client: httpx.Client) -> None:
    assert client.post("/tokenize", content='{"content": "a\\ud800b"}').status_code == 200


def talk(server: RunningServer, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send the parts, and read until the server closes."""
    with socket.create_connection(server.address, timeout=20) as peer:
        for part in parts:
            peer.sendall(part)
            time.sleep(pause_s)
        answer = b""
        while data := peer.recv(1 << 16):
            answer += data
    return answer


def test_a_body_that_claims_too_much_is_refused_at_once(strict: RunningServer) -> None:
    head = f"POST /tokenize HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Length: 99999999999\r\n\r\n"
    answer = talk(strict, head.encode(), b"{")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":413' in answer


def test_the_slow_are_not_waited_for(strict: RunningServer) -> None:
    began = time.monotonic()
    assert talk(strict, b"GET /health HTTP/1.1\r\nHo") == b""
    head = f"POST /tokenize HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Length: 20\r\n\r\n"
    assert talk(strict, head.encode(), b"{").startswith(b"HTTP/1.1 408 ")
    assert 2.0 <= time.monotonic() - began < 15.0


def test_headers_without_end_are_not_read(strict: RunningServer) -> None:
    with pytest.raises(OSError, match=r"reset|pipe"):
        talk(strict, b"GET / HTTP/1.1\r\n", *[b"X-A: " + b"a" * 8192 + b"\r\n"] * 200)


def test_a_reader_who_does_not_read_is_left(strict: RunningServer, keyed: httpx.Client) -> None:
    body = json.dumps(
        {"prompt": "Once", "n_predict": 200, "n_probs": 1000, "stream": True, "ignore_eos": True}
    ).encode()
    lines = ("POST /completion?slow HTTP/1.1", "Host: x", f"X-Api-Key: {KEY}", "Connection: close")
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
    before = strict.log.count('"path": "/completion"')
    with socket.socket() as peer:
        peer.settimeout(20)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # else the system may take the whole answer
        peer.connect(strict.address)
        peer.sendall(head.encode() + body)
        answer = peer.recv(100)
        assert answer.startswith(b"HTTP/1.1 200 ")
        strict.wait_for_log('"path": "/completion"', times=before + 1)
        with contextlib.suppress(ConnectionResetError):
            while data := peer.recv(1 << 20):
                answer += data
    assert answer.count(b"data:") > 1
    assert b'"stop":true' not in answer
    strict.wait_for_log('"gone": true')  # the line comes in parts now and then
    assert keyed.post("/completion", json={"prompt": "Once", "n_predict": 1}).status_code == 200


def test_what_is_no_http_gets_400(strict: RunningServer) -> None:
    assert talk(strict, b"\x16\x03\x01 nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_the_log_is_json_without_keys_and_texts(strict: RunningServer, keyed: httpx.Client) -> None:
    text = "a very private prompt"
    assert keyed.post("/completion", json={"prompt": text, "n_predict": 3}).status_code == 200
    strict.wait_for_log('"predicted": 3')
    assert '"gone"' not in strict.log.splitlines()[-1]
    lines = [json.loads(line) for line in strict.log.splitlines() if line.startswith("{")]
    assert len(lines) == len(strict.log.splitlines())
    request = next(line for line in lines if line.get("predicted") == 3)
    assert (request["event"], request["method"], request["path"], request["status"]) == (
        "request",
        "POST",
        "/completion",
        200,
    )
    assert set(request) >= {"ms", "slot", "prompt", "cached", "tokens_per_s"}
    for secret in (KEY, "sk-other", "wrong", text):
        assert secret not in strict.log


def test_the_document_tells_of_errors(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["info"]["title"] == "powerinfer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert {"400", "401", "503"} <= set(operation["responses"]), path
            assert "422" not in operation["responses"]
    assert "/tokenize" in document["paths"]
    assert client.get("/docs").status_code == 404


def test_names_of_headers_are_spelled_as_llama_server_spells_them(strict: RunningServer) -> None:
    """Some clients compare them letter by letter."""
    answer = talk(strict, b"OPTIONS /completions HTTP/1.1\r\nOrigin: http://localhost\r\nConnection: close\r\n\r\n")
    for line in (b"Access-Control-Allow-Origin: http://localhost", b"Access-Control-Allow-Headers: *"):
        assert line in answer.split(b"\r\n")
