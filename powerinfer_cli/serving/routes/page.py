"""The web page at `/`: the built-in one, from memory, or a folder of the user's."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.errors import not_found
from powerinfer_cli.serving.options import ServerOptions

__all__ = ["WebPage", "make_page"]

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}
# Nothing but this server's own files: whatever a model writes, the page can load and send nothing elsewhere.
POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'; object-src 'none'"
HEADERS = {
    "Cache-Control": "no-cache",  # kept, but asked about: a new version of the server is a new page at once
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class WebPage:
    """router: its routes, to be added after all others. has: whether a URL's path is a file of the page, which needs
    neither key nor model.
    """

    router: APIRouter
    has: Callable[[str], bool]


@dataclass(frozen=True)
class Asset:
    body: bytes
    media_type: str
    tag: str

    def answer(self, known: str) -> Response:
        """known: what the browser has, as If-None-Match lists it."""
        headers = {**HEADERS, "ETag": self.tag}
        if known.strip() == "*" or self.tag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers={**headers, "Content-Type": self.media_type})


def make_page(options: ServerOptions) -> WebPage:
    """Raises PowerInferError where the user's folder is none."""
    if options.page is not None:
        return _folder(options.page)
    return _built_in() if options.ui else WebPage(APIRouter(), lambda path: False)


def _built_in() -> WebPage:
    assets = dict(_assets(resources.files("powerinfer_cli.serving") / "page", "/"))
    assets["/"] = assets["/index.html"]
    router = APIRouter(include_in_schema=False)

    async def asset(request: Request) -> Response:
        found = assets.get(request.scope["path"])
        if found is None:  # a line's end behind it, which routes' patterns let pass
            raise not_found()
        return found.answer(request.headers.get("if-none-match", ""))

    for path in assets:
        router.add_api_route(path, asset, methods=["GET"])
    return WebPage(router, assets.__contains__)


def _assets(folder: Traversable, prefix: str) -> Iterator[tuple[str, Asset]]:
    """Paths and files, also of the folders in it."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _assets(entry, f"{prefix}{entry.name}/")
        elif (kind := TYPES.get(Path(entry.name).suffix)) is not None:
            body = entry.read_bytes()
            yield prefix + entry.name, Asset(body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _folder(folder: Path) -> WebPage:
    """The user's own page sets its own policy, in its own files. Hidden files are not served, nor what links lead to
    outside.
    """
    if not folder.is_dir():
        raise PowerInferError(f"{folder}: not a folder")
    files = StaticFiles(directory=folder)
    router = APIRouter(include_in_schema=False)

    def find(path: str) -> str | None:
        """The name in the folder; None where there is no such file."""
        name = path.lstrip("/") + ("index.html" if path.endswith("/") else "")
        if "\0" in name or any(part.startswith(".") for part in name.split("/")):
            return None
        try:
            found = files.lookup_path(name)[1]
        except OSError:
            return None  # a name that no file can have
        return name if found is not None and (folder / name).is_file() else None

    async def file(request: Request) -> Response:
        name = find(request.scope["path"])
        if name is None:
            raise not_found()
        response = await files.get_response(name, request.scope)
        response.headers["Cache-Control"] = "no-cache"
        return response

    router.add_api_route("/{path:path}", file, methods=["GET"])
    # The API's routes have no dot in their names: a file called `slots` does not open /slots to everyone.
    return WebPage(router, lambda path: (path == "/" or "." in path) and find(path) is not None)
