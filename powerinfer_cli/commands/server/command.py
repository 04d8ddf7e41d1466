"""`powerinfer server`: one model for several people at once, over HTTP."""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from powerinfer_cli.commands.server.command_line import current
from powerinfer_cli.commands.server.flags import AnswerFlags, ChatFlags, DoorFlags, RouterFlags, SlotFlags
from powerinfer_cli.commands.server.input_end import ROUTED, end_with_input
from powerinfer_cli.commands.server.options import listed, server_options
from powerinfer_cli.commands.server.words import ServerCommand
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.escapes import process_escapes
from powerinfer_cli.commands.shared.flags.drafts import DraftFlags
from powerinfer_cli.commands.shared.flags.grammar import GrammarFlags
from powerinfer_cli.commands.shared.flags.machine import MachineFlags, cpu_line, with_machine
from powerinfer_cli.commands.shared.flags.model import ModelFlags
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.shared.flags.sampling import SamplingFlags
from powerinfer_cli.commands.shared.loading import Loading
from powerinfer_cli.commands.shared.model_source import find_model
from powerinfer_cli.errors import UsageError
from powerinfer_cli.router.division import WEIGHED

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.drafting import DraftOptions
    from powerinfer_cli.opening import ExecutorChoice
    from powerinfer_cli.runtime import EngineOptions
    from powerinfer_cli.serving.http.logs import Log
    from powerinfer_cli.serving.options import ServerOptions
    from powerinfer_cli.serving.service import ServedModel

__all__ = ["app", "serve_texts"]

EPILOG = """Examples:
powerinfer server                                the bundled model, on http://127.0.0.1:8080
powerinfer server -m model.gguf --host 0.0.0.0 --port 8000 --api-key KEY
powerinfer server -m model.gguf -c 16384 -np 8 --vram-budget 8 --metrics
powerinfer server -hf PowerInfer/Bamboo-DPO-v0.1-gguf --alias bamboo
powerinfer server --models-dir models            all models of a folder, each loaded when a request names it
LLAMA_ARG_CTX_SIZE=8192 powerinfer server        each flag is a variable, too, as llama.cpp names them"""

AUTO_SLOTS = 4
REQUESTS, TASKS = 3, 4  # llama-server's verbosity from which it tells of what goes well, and of all


def server(
    model: ModelFlags,
    predictor: PredictorFlags,
    machine: MachineFlags,
    placement: PlacementFlags,
    drafts: DraftFlags,
    door: DoorFlags,
    router: RouterFlags,
    slots: SlotFlags,
    answers: AnswerFlags,
    chats: ChatFlags,
    sampling: SamplingFlags,
    grammar: GrammarFlags,
) -> None:
    """Serve a model over HTTP, or several, as llama-server and OpenAI's services do."""
    serve_texts(model, predictor, machine, placement, drafts, door, router, slots, answers, chats, sampling, grammar)


def serve_texts(
    model: ModelFlags,
    predictor: PredictorFlags,
    machine: MachineFlags,
    placement: PlacementFlags,
    drafts: DraftFlags,
    door: DoorFlags,
    router: RouterFlags,
    slots: SlotFlags,
    answers: AnswerFlags,
    chats: ChatFlags,
    sampling: SamplingFlags,
    grammar: GrammarFlags,
    executor: "ExecutorChoice | None" = None,
    at_end: Callable[[], None] | None = None,
) -> None:
    """What the command does. executor: who computes instead of this machine alone; at_end: called at the end."""
    if not slots.cont_batching:
        raise UsageError("-nocb is not supported: -np 1 serves one request at a time")
    options = server_options(door, slots, answers, chats, sampling.options(process_escapes))
    draft_options = drafts.options(model.hf_token)
    if answers.embedding and draft_options.wanted:
        raise UsageError("--embedding excludes drafts (--spec-type, -md): serve vectors and texts apart")
    kind = draft_options.kind
    options = replace(options, n_batch=model.batch_size, form=grammar.form(), spec_type=str(kind))
    quiet = door.log_disable or (door.verbosity < REQUESTS and not door.verbose)

    from powerinfer_cli.serving.http.logs import Log
    from powerinfer_cli.serving.http.sockets import bind
    from powerinfer_cli.serving.lifecycle import serve

    log = Log(as_json=options.log_json, quiet=quiet, tasks=door.verbose or door.verbosity >= TASKS)
    engine_options = with_slots(with_machine(model.options(), machine), slots)
    if router.several:
        if model.model or model.hf:
            raise UsageError("-m and -hf exclude --models-dir and --models-preset: a router finds its models there")
        _route(router, options, placement, bind(listed(door.host), door.port), log, mapped=not machine.repack)
        return
    if steps := os.environ.get(WEIGHED):
        from powerinfer_cli.commands.server.weighing import weigh

        weigh(find_model(model, answers.hf_file), engine_options, placement, predictor, int(steps))
        return
    if os.environ.get(ROUTED):
        end_with_input()

    def load(watch: Callable[[str, int, int], None]) -> "tuple[ServedModel, Any]":
        wishes = placement, draft_options
        loading = Loading(log.note, quiet=quiet or options.log_json, watch=watch)
        return _load(model, answers.hf_file, predictor, wishes, engine_options, options, log, executor, loading)

    sockets = bind(listed(door.host), door.port)
    serve(options, sockets, load, log, at_end=at_end)


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


def _load(
    model: ModelFlags,
    hf_file: str | None,
    predictor: PredictorFlags,
    wishes: "tuple[PlacementFlags, DraftOptions]",
    engine_options: "EngineOptions",
    options: "ServerOptions",
    log: "Log",
    executor: "ExecutorChoice | None",
    loading: Loading,
) -> "tuple[ServedModel, Any]":
    """In a thread of its own, beside the server that says so."""
    from powerinfer_cli.opening import open_model
    from powerinfer_cli.rendering.renderer import shared_renderer
    from powerinfer_cli.serving.chat.capabilities import capabilities_of
    from powerinfer_cli.serving.loaded import served_model, start_thread

    shared_renderer().start()  # and meanwhile the model loads
    path = find_model(model, hf_file, tell=loading.watch)
    with loading as events:
        placement, drafts = wishes
        opened = open_model(
            path,
            engine_options,
            placement.wishes(),
            predictor_path=predictor.predictor_path,
            events=events,
            drafts=drafts,
            executor=executor,
        )
    for line in (*(f"gpu: {line}" for line in opened.gpus), f"cpu: {cpu_line(opened.engine.options)}"):
        log.note(line)
    model_served = served_model(opened.gguf, opened.tokenizer, opened.engine, options, opened.gpus, log)
    remark = capabilities_of(model_served.template).remark  # found now: /props tells them, and waits for nothing
    if remark:
        log.note(f"warning: {remark}; chats will not be answered")
    return model_served, start_thread(opened.gguf, opened.tokenizer, opened.engine, options, log)


app = command_app("server", server, EPILOG, cls=ServerCommand)
