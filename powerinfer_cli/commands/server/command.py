"""`powerinfer server`: one model for several people at once, over HTTP."""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from powerinfer_cli.commands.server.command_line import current
from powerinfer_cli.commands.server.flags import RouterFlags, SlotFlags
from powerinfer_cli.commands.server.input_end import ROUTED, end_with_input
from powerinfer_cli.commands.server.loader import TextLoader
from powerinfer_cli.commands.server.options import listed, server_options
from powerinfer_cli.commands.server.served_flags import ServedFlags
from powerinfer_cli.commands.server.words import ServerCommand
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.escapes import process_escapes
from powerinfer_cli.commands.shared.flags.machine import with_machine
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.model_source import find_model
from powerinfer_cli.errors import UsageError
from powerinfer_cli.router.division import WEIGHED

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.opening import ExecutorChoice
    from powerinfer_cli.runtime import EngineOptions
    from powerinfer_cli.serving.http.logs import Log
    from powerinfer_cli.serving.options import ServerOptions

__all__ = ["app", "serve_texts", "text_loader"]

EPILOG = """Examples:
powerinfer server                                the bundled model, on http://127.0.0.1:8080
powerinfer server -m model.gguf --host 0.0.0.0 --port 8000 --api-key KEY
powerinfer server -m model.gguf -c 16384 -np 8 --vram-budget 8 --metrics
powerinfer server -hf PowerInfer/Bamboo-DPO-v0.1-gguf --alias bamboo
powerinfer server --models-dir models            all models of a folder, each loaded when a request names it
LLAMA_ARG_CTX_SIZE=8192 powerinfer server        each flag is a variable, too, as llama.cpp names them"""

AUTO_SLOTS = 4
REQUESTS, TASKS = 3, 4  # llama-server's verbosity from which it tells of what goes well, and of all


def server(served: ServedFlags, router: RouterFlags) -> None:
    """Serve a model over HTTP, or several, as llama-server and OpenAI's services do."""
    serve_texts(served, router)


def serve_texts(
    served: ServedFlags,
    router: RouterFlags,
    executor: "ExecutorChoice | None" = None,
    at_end: Callable[[], None] | None = None,
) -> None:
    """What the command does. executor: who computes instead of this machine alone; at_end: called at the end."""
    from powerinfer_cli.serving.http.sockets import bind
    from powerinfer_cli.serving.lifecycle import serve

    model, door, placement = served.model, served.door, served.placement
    load = text_loader(served, executor)
    options, log = load.options, load.log
    if router.several:
        if model.model or model.hf:
            raise UsageError("-m and -hf exclude --models-dir and --models-preset: a router finds its models there")
        _route(router, options, placement, bind(listed(door.host), door.port), log, mapped=not served.machine.repack)
        return
    if steps := os.environ.get(WEIGHED):
        from powerinfer_cli.commands.server.weighing import weigh

        weigh(find_model(model, load.hf_file), load.engine, placement, served.predictor, int(steps))
        return
    if os.environ.get(ROUTED):
        end_with_input()
    sockets = bind(listed(door.host), door.port)
    serve(options, sockets, load, log, at_end=at_end)


def text_loader(served: ServedFlags, executor: "ExecutorChoice | None" = None) -> TextLoader:
    """All that the flags say of one model that is served. Raises PowerInferError, of usage too."""
    from powerinfer_cli.serving.http.logs import Log

    model, door, slots, answers = served.model, served.door, served.slots, served.answers
    if not slots.cont_batching:
        raise UsageError("-nocb is not supported: -np 1 serves one request at a time")
    options = server_options(door, slots, answers, served.chats, served.sampling.options(process_escapes))
    draft_options = served.drafts.options(model.hf_token)
    if answers.embedding and draft_options.wanted:
        raise UsageError("--embedding excludes drafts (--spec-type, -md): serve vectors and texts apart")
    kind = draft_options.kind
    options = replace(options, n_batch=model.batch_size, form=served.grammar.form(), spec_type=str(kind))
    quiet = door.log_disable or (door.verbosity < REQUESTS and not door.verbose)
    log = Log(as_json=options.log_json, quiet=quiet, tasks=door.verbose or door.verbosity >= TASKS)
    engine = with_slots(with_machine(model.options(), served.machine), slots)
    placed = served.predictor, served.placement
    return TextLoader(model, answers.hf_file, *placed, draft_options, engine, options, log, executor)


def _route(
    router: RouterFlags,
    options: "ServerOptions",
    placement: PlacementFlags,
    sockets: "Sequence[socket.socket]",
    log: "Log",
    *,
    mapped: bool,
) -> None:
    from powerinfer_cli.commands.server.routing import router_options
    from powerinfer_cli.router.app import serve_models

    budgets = placement.wishes().vram_budget or ()
    serve_models(router_options(router, current.get(), options, budgets, mapped=mapped, log=log), sockets, log)


def with_slots(options: "EngineOptions", slots: SlotFlags) -> "EngineOptions":
    """Room for so many texts; -1: llama-server's way, four that share the context."""
    if slots.parallel == 0:
        raise UsageError("-np must be at least 1, or -1")
    automatic = slots.parallel < 0
    unified = automatic if slots.kv_unified is None else slots.kv_unified
    return replace(options, n_sequences=AUTO_SLOTS if automatic else slots.parallel, unified=unified)


app = command_app("server", server, EPILOG, cls=ServerCommand)
