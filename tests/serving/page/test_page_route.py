"""The page's files as any client gets them."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp

import powerinfer_cli
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.app import make_app
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.routes.page import make_page
from powerinfer_cli.serving.service import Service
from tests.serving.page.fake_server import FakeServer

Start = Callable[..., tuple[FakeServer, str]]
SOURCE = Path(powerinfer_cli.__file__).parent / "serving" / "page"


@pytest.fixture(scope="module")
def built_in() -> Iterator[httpx.Client]:
    server = FakeServer()
    with httpx.Client(base_url=server.start()) as client:
        yield client
    server.stop()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/main.js", "text/javascript; charset=utf-8"),
        ("/vendor/purify.js", "text/javascript; charset=utf-8"),
        ("/vendor/purify.LICENSE.txt", "text/plain; charset=utf-8"),
        ("/base.css", "text/css; charset=utf-8"),
        ("/favicon.svg", "image/svg+xml"),
        ("/manifest.webmanifest", "application/manifest+json"),
        # llama-server's page, open in a browser while the server is replaced, looks for these two.
        ("/sw.js", "text/javascript; charset=utf-8"),
        ("/_app/version.json", "application/json"),
    ],
)
def test_files_and_their_types(built_in: httpx.Client, path: str, kind: str) -> None:
    answer = built_in.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert answer.content == (SOURCE / (path.strip("/") or "index.html")).read_bytes()
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_what_is_known_is_not_sent_again(built_in: httpx.Client) -> None:
    tag = built_in.get("/main.js").headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = built_in.get("/main.js", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert built_in.get("/main.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_all_that_files_name_is_there(built_in: httpx.Client) -> None:
    """And nothing is named that is elsewhere."""
    page = make_page(ServerOptions())
    scripts = [file for file in SOURCE.rglob("*.js") if file.parent == SOURCE]
    for script in scripts:
        for name in re.findall(r'from "([^"]+)"', script.read_text()):
            assert page.has("/" + name.removeprefix("./")), f"{script.name}: {name}"
    for name in re.findall(r'(?:src|href)="([^"#]+)"', (SOURCE / "index.html").read_text()):
        assert page.has("/" + name)
    own = [*scripts, *SOURCE.glob("*.css"), SOURCE / "index.html"]
    assert [file.name for file in own if "https://" in file.read_text()] == []


@pytest.mark.parametrize(
    "path", ["/nothing.js", "/vendor/", "/vendor", "/../__init__.py", "/%2e%2e/__init__.py", "/%0A"]
)
def test_nothing_else_is_served(built_in: httpx.Client, path: str) -> None:
    assert built_in.get(path).status_code == 404


def test_no_page(start: Start) -> None:
    _, url = start(options=ServerOptions(ui=False))
    assert httpx.get(url).status_code == 404
    assert httpx.get(url + "main.js").status_code == 404
    assert not make_page(ServerOptions(ui=False)).has("/")


def test_a_folder_of_the_users(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "index.html").write_text("<p>mine")
    (folder / "sub" / "index.html").write_text("<p>sub")
    (folder / "a b.txt").write_text("text")
    (folder / ".env").write_text("secret")
    (folder / "slots").write_text("[]")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    options = ServerOptions(page=folder)
    _, url = start(options=options)
    with httpx.Client(base_url=url) as client:
        assert client.get("/").text == "<p>mine"
        assert client.get("/sub/").text == "<p>sub"
        found = client.get("/a%20b.txt")
        assert (found.text, found.headers["cache-control"]) == ("text", "no-cache")
        assert client.get("/a%20b.txt", headers={"If-None-Match": found.headers["etag"]}).status_code == 304
        refused = [
            "/main.js",
            "/..%2fsecret.txt",
            "/%2e%2e/secret.txt",
            "/sub/..%2f..%2fsecret.txt",
            "/.env",
            "/out.txt",
        ]
        refused += ["/a%00b", "/" + "x" * 5000, "//etc/passwd", "/%2fetc/passwd", "/sub"]
        answers = {path: client.get(path) for path in refused}
        assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(refused, 404)
        assert not [path for path, answer in answers.items() if "secret" in answer.text]
    page = make_page(options)
    public = [path for path in ("/", "/a b.txt", "/slots", "/.env", "/out.txt", "/../secret.txt") if page.has(path)]
    assert public == ["/", "/a b.txt"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("//main.js", 200), ("/vendor/purify.js", 200), ("/nothing.js", 503), ("/internal/neurons", 503)],
)
def test_the_page_needs_neither_key_nor_model(path: str, status: int) -> None:
    app = make_app(Service(ServerOptions(api_keys=frozenset({"secret"}))), Log())
    assert asyncio.run(get(app, path)).status_code == status


async def get(app: ASGIApp, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        return await client.get(path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match="not a folder"):
        make_page(ServerOptions(page=tmp_path / "nothing"))
