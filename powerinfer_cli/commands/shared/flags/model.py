"""Which model, and how the engine runs it, with llama.cpp's names, meanings and defaults."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerinfer_cli.commands.shared.flags.store import complete_model

if TYPE_CHECKING:  # imports torch
    from powerinfer_cli.runtime import EngineOptions

__all__ = ["CacheTypeFlag", "ModelFlags"]

MOST_THREADS = 512  # llama.cpp's limit


class CacheTypeFlag(StrEnum):
    """Of keys or values in the cache: the engine's CACHE_TYPES."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"


def _model(*names: str, help: str, metavar: str | None = None, **limits: Any) -> Any:  # noqa: A002  # Typer's word
    limits = {{"low": "min", "high": "max"}.get(name, name): value for name, value in limits.items()}
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Model and engine", **limits)


@dataclass(frozen=True)
class ModelFlags:
    """Which model, and how the engine runs it."""

    model: Annotated[
        Path | None,
        _model(
            "-m",
            "--model",
            metavar="FILE|NAME",
            help="GGUF file, or a model as `powerinfer list` shows it. Without it, the bundled story model.",
            autocompletion=complete_model,
        ),
    ] = None
    hf: Annotated[
        str | None,
        _model(
            "-hf",
            "-hfr",
            "--hf-repo",
            metavar="REPO[:QUANT]",
            help="Fetch the model from the Hugging Face hub, then run.",
        ),
    ] = None
    hf_token: Annotated[
        str | None, _model("-hft", "--hf-token", metavar="TOKEN", help="Hub access token (default: HF_TOKEN).")
    ] = None
    ctx_size: Annotated[
        int,
        _model("-c", "--ctx-size", low=0, metavar="N", help="Context in tokens; 0: the model's own, if memory allows."),
    ] = 0
    batch_size: Annotated[
        int, _model("-b", "--batch-size", low=1, metavar="N", help="Prompt tokens between two looks for Ctrl-C.")
    ] = 2048
    ubatch_size: Annotated[
        int, _model("-ub", "--ubatch-size", low=1, metavar="N", help="Prompt tokens evaluated at a time.")
    ] = 512
    type_k: Annotated[CacheTypeFlag, _model("-ctk", "--cache-type-k", help="Of the cached keys.")] = CacheTypeFlag.F16
    type_v: Annotated[CacheTypeFlag, _model("-ctv", "--cache-type-v", help="Of the cached values.")] = CacheTypeFlag.F16
    threads: Annotated[
        int, _model("-t", "--threads", high=MOST_THREADS, metavar="N", help="CPU threads; -1: one per physical core.")
    ] = -1
    threads_batch: Annotated[
        int,
        _model("-tb", "--threads-batch", high=MOST_THREADS, metavar="N", help="CPU threads for prompts; -1: as -t."),
    ] = -1

    def options(self) -> "EngineOptions":
        """As the engine takes them. Raises UsageError."""
        from powerinfer_cli.runtime import EngineOptions

        return EngineOptions(
            n_ctx=self.ctx_size,
            n_batch=self.batch_size,
            n_ubatch=self.ubatch_size,
            type_k=self.type_k.value,
            type_v=self.type_v.value,
            n_threads=self.threads if self.threads > 0 else None,
            n_threads_batch=self.threads_batch if self.threads_batch > 0 else None,
        )
