"""The models of a router as they are now: what is listed, what is loaded, what a request means."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.router.division import Curve
from powerinfer_cli.router.entries import Entry, Source, without_tokens
from powerinfer_cli.router.events import Events
from powerinfer_cli.router.options import RouterOptions
from powerinfer_cli.router.pool import Instance, Pool, State
from powerinfer_cli.router.process import ModelProcess
from powerinfer_cli.router.room import Share
from powerinfer_cli.router.weighing import weighed
from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.http.logs import Log

__all__ = ["Models"]

GIB = 1 << 30
ASKING_S = 1.0  # for what a loaded model says of itself


class Models:
    """One for the whole router; `request.app.state.models`. `running` is entered before anything else is asked."""

    def __init__(self, options: RouterOptions, log: Log) -> None:
        """Raises PowerInferError: there is no catalog to begin with."""
        self.options, self._log = options, log
        self.catalog = options.catalog()
        self.events = Events()
        self.pool = Pool(self._spawn, options.room, self._changed, self._weigh)
        self._folder: Path | None = None
        self._numbers = count()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sockets have a folder that is nobody else's; at the end all processes do, too."""
        with tempfile.TemporaryDirectory(prefix="powerinfer-") as folder:
            self._folder = Path(folder)
            for entry in self.catalog.entries.values():
                if entry.start.on_startup:
                    await self.pool.load(entry)
            try:
                yield
            finally:
                await self.pool.close()

    def entry(self, name: object) -> Entry:
        """What a request means. Raises APIError."""
        if not isinstance(name, str) or not name:
            raise invalid_request("model name is missing from the request")
        found = self.catalog.find(name)
        if found is None:
            raise invalid_request(f"model '{name[:100]}' not found: GET /v1/models lists them")
        return found

    def check_loaded(self, entry: Entry, autoload: bool | None) -> None:
        """Raises APIError where a model is not, and is not to be."""
        wanted = self.options.autoload if autoload is None else autoload
        if not wanted and self.pool.instance(entry).state is not State.LOADED:
            raise invalid_request(
                f"model '{entry.name}' is not loaded: POST /models/load, or start without --no-models-autoload"
            )

    async def reload(self) -> None:
        """Read the catalog anew. A model that is loaded and has changed, or is there no more, is stopped.

        Raises APIError: it cannot be read; all stays as it was.
        """
        try:
            fresh = await asyncio.to_thread(self.options.catalog)
        except PowerInferError as error:
            raise invalid_request(str(error)) from error
        old, self.catalog = self.catalog, fresh
        for name, one in list(self.pool.instances.items()):
            if (entry := fresh.entries.get(name)) != one.entry:
                await self.pool.change(one, entry)
        for name in old.entries.keys() - fresh.entries.keys():
            self.events.tell(name, "model_remove", {})
        self.events.tell("*", "models_reload", {})

    async def listed(self) -> list[dict[str, Any]]:
        """Of each entry, what /v1/models tells."""
        entries = [entry for entry in self.catalog.entries.values() if not entry.hidden]
        return await asyncio.gather(*map(self._listed, entries))

    async def _listed(self, entry: Entry) -> dict[str, Any]:
        one = self.pool.instance(entry)
        told = await self._told(one)
        status: dict[str, Any] = {
            "value": "sleeping" if told.pop("sleeping", False) else str(one.state),
            "args": without_tokens(self._words(entry) if one.process is None else one.process.words),
            "preset": entry.start.preset,
        }
        if one.progress is not None:
            status["progress"] = one.progress.fields()
        if one.fault is not None:
            status |= {"failed": True, "exit_code": one.exit_code, "error": one.fault}
        return {
            "id": entry.name,
            "aliases": list(entry.aliases),
            "tags": list(entry.tags),
            "object": "model",
            "created": 0,
            "owned_by": "llamacpp",
            "path": "" if entry.path is None else str(entry.path),
            "size": entry.size,
            "memory": 0 if one.process is None else one.process.memory,
            "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
            "source": str(entry.source),
            "in_cache": entry.source is Source.CACHE,
            "can_remove": False,
            "status": status,
            **told,
        }

    async def _told(self, one: Instance) -> dict[str, Any]:
        """What a loaded model's own server tells of it, and whether it sleeps; nothing where it is too busy to."""
        if one.state is not State.LOADED or one.process is None:
            return {}
        try:
            async with asyncio.timeout(ASKING_S):
                props, models = await asyncio.gather(
                    one.process.client.get("/props"), one.process.client.get("/v1/models")
                )
            [said] = models.json()["data"]
            return {
                "created": said["created"],
                "meta": said["meta"],
                "sleeping": props.json().get("is_sleeping", False),
            }
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError, RuntimeError):
            return {}

    async def metrics(self) -> dict[str, str]:
        """By the names of loaded models, what they measure."""
        loaded = [one for one in self.pool.instances.values() if one.state is State.LOADED]
        texts = await asyncio.gather(*map(self._measured, loaded))
        return {one.entry.name: text for one, text in zip(loaded, texts, strict=True)}

    async def _measured(self, one: Instance) -> str:
        try:
            assert one.process is not None  # it is loaded
            async with asyncio.timeout(ASKING_S):
                answer = await one.process.client.get("/metrics")
        except (httpx.HTTPError, TimeoutError, RuntimeError):
            return ""
        return answer.text if answer.status_code == 200 else ""

    def _words(self, entry: Entry) -> list[str]:
        return [*self.options.program, *entry.start.words, "--alias", entry.name]

    def _spawn(self, entry: Entry, share: Share) -> ModelProcess:
        assert self._folder is not None
        words = self._words(entry)
        if share:
            words += ["--vram-budget", _budget(share)]
        socket = self._folder / f"{next(self._numbers)}.sock"
        return ModelProcess(
            words, socket, self.options.environment, lambda line: self._log.note(f"[{entry.name}] {line}")
        )

    async def _weigh(self, entry: Entry) -> Curve:
        words = [*self.options.program, *entry.start.words, "--vram-budget", _budget(self.options.room.budgets)]
        curve = await weighed(words, self.options.environment)
        if not curve:
            self._log.note(
                f"model {entry.name}: what GPU memory gains it is not known: it gets what it needs of the rest"
            )
        return curve

    def _changed(self, one: Instance) -> None:
        data: dict[str, Any] = {"status": str(one.state)}
        if one.progress is not None:
            data["progress"] = one.progress.fields()
        if one.state is State.UNLOADED:
            data["exit_code"] = one.exit_code
        if one.fault is not None:
            data["error"] = one.fault
            self._log.note(f"model {one.entry.name}: {one.fault}")
        self.events.tell(one.entry.name, "model_status", data)


def _budget(share: Share) -> str:
    return ",".join(f"{part / GIB:.3f}" for part in share)
