"""From the flags of `powerinfer server` to a model that is open, and the engine's thread at work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from powerinfer_cli.commands.shared.flags.machine import cpu_line
from powerinfer_cli.commands.shared.flags.model import ModelFlags
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.shared.loading import Loading
from powerinfer_cli.commands.shared.model_source import find_model

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.drafting import DraftOptions
    from powerinfer_cli.opening import ExecutorChoice
    from powerinfer_cli.runtime import EngineOptions
    from powerinfer_cli.serving.http.logs import Log
    from powerinfer_cli.serving.options import ServerOptions
    from powerinfer_cli.serving.service import ServedModel

__all__ = ["TextLoader"]


@dataclass(frozen=True)
class TextLoader:
    """Loads the model that the flags name, where it is called: in a thread beside the server that says so, or on
    another machine, which it reaches by pickling. executor: who computes instead of that machine alone.
    """

    model: ModelFlags
    hf_file: str | None
    predictor: PredictorFlags
    placement: PlacementFlags
    drafts: "DraftOptions"
    engine: "EngineOptions"
    options: "ServerOptions"
    log: "Log"
    executor: "ExecutorChoice | None" = None

    def __call__(self, watch: Callable[[str, int, int], None]) -> "tuple[ServedModel, Any]":
        """watch: told how far it is. Raises PowerInferError."""
        from powerinfer_cli.opening import open_model
        from powerinfer_cli.rendering.renderer import shared_renderer
        from powerinfer_cli.serving.chat.capabilities import capabilities_of
        from powerinfer_cli.serving.loaded import served_model, start_thread

        log = self.log
        shared_renderer().start()  # and meanwhile the model loads
        path = find_model(self.model, self.hf_file, tell=watch)
        with Loading(log.note, quiet=log.quiet or self.options.log_json, watch=watch) as events:
            opened = open_model(
                path,
                self.engine,
                self.placement.wishes(),
                predictor_path=self.predictor.predictor_path,
                events=events,
                drafts=self.drafts,
                executor=self.executor,
            )
        for line in (*(f"gpu: {line}" for line in opened.gpus), f"cpu: {cpu_line(opened.engine.options)}"):
            log.note(line)
        model = served_model(opened.gguf, opened.tokenizer, opened.engine, self.options, opened.gpus, log)
        remark = capabilities_of(model.template).remark  # found now: /props tells them, and waits for nothing
        if remark:
            log.note(f"warning: {remark}; chats will not be answered")
        return model, start_thread(opened.gguf, opened.tokenizer, opened.engine, self.options, log)
