"""What every request passes before its handler, and its answer behind it. Plain ASGI: it costs next to nothing."""

import hmac
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from powerinfer_cli.serving.errors import APIError, authentication_error
from powerinfer_cli.serving.http.bodies import error_answer
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.origins import allowed_origin, foreign_page, is_own
from powerinfer_cli.serving.http.protocol import spelled
from powerinfer_cli.serving.http.requests import Record, current
from powerinfer_cli.serving.options import ServerOptions

__all__ = ["Access", "Gate"]

PUBLIC = frozenset({"/health", "/v1/health"})
UNLOGGED = PUBLIC | {"/metrics", "/props", "/models", "/v1/models", "/slots", "/internal/neurons"}  # asked for often
BEARER = b"bearer "


class Access:
    """Mends the path, and writes the log's line when the answer has gone, or nobody waits for it any more."""

    def __init__(self, app: ASGIApp, log: Log) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = re.sub("//+", "/", scope["path"])
        scope = {**scope, "path": path, "raw_path": path.encode("utf-8", "replace")}
        record = Record(scope["method"], path)
        token = current.set(record)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message = {**message, "headers": [(spelled(name), value) for name, value in message["headers"]]}
            else:
                record.complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as error:
            self._log.failure(error)
            if not record.complete:
                raise  # uvicorn closes the connection
        finally:
            current.reset(token)
            if path not in UNLOGGED or record.status not in (200, 503):
                self._log.request(record.values())


class Gate:
    """Who may come in, and when: CORS, the model that loads, API keys."""

    def __init__(
        self, app: ASGIApp, options: ServerOptions, loading: Callable[[], APIError | None], page: Callable[[str], bool]
    ) -> None:
        """loading: what is told while the model is not there. page: whether a path is of the web page, which needs
        neither key nor model.
        """
        self._app, self._loading, self._page = app, loading, page
        self._origins = options.cors_origins
        self._keys = [key.encode() for key in options.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        asking = headers.get(b"origin", b"").decode("latin-1")
        origin = allowed_origin(asking, self._origins)
        cors = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")] if origin else []

        async def sent(message: Message) -> None:
            if cors and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *cors]}
            await send(message)

        if scope["method"] == "OPTIONS":
            await _answer_options(sent)
            return
        # Without a key to ask for, what a form or a script of any page may send must not be done: a browser hides no
        # more than the answer from them.
        foreign = asking and not origin and not self._keys and not is_own(asking, headers)
        error = foreign_page(asking) if foreign else self._refusal(scope["path"], headers)
        if error is not None:
            await error_answer(error)(scope, receive, sent)
            return
        await self._app(scope, receive, sent)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> APIError | None:
        if self._page(path):
            return None
        if (error := self._loading()) is not None:
            return error
        if self._keys and path not in PUBLIC and not self._has_key(headers):
            return authentication_error()
        return None

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        given = [headers.get(name, b"") for name in (b"authorization", b"x-api-key")]
        given = [text[len(BEARER) :].strip() if text[: len(BEARER)].lower() == BEARER else text for text in given]
        # All are compared, each in constant time: how long it takes tells nothing.
        return any([hmac.compare_digest(text, key) for text in given for key in self._keys])  # noqa: C419  # all of them


async def _answer_options(send: Send) -> None:
    headers = [
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
        (b"access-control-allow-headers", b"*"),
        (b"content-type", b"text/html"),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
