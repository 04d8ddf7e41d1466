"""Who proposes tokens, for every command that writes a text."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # imports torch
    from powerinfer_cli.drafting import DraftOptions

__all__ = ["DraftFlags"]


def _draft(*names: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Drafting")


@dataclass(frozen=True)
class DraftFlags:
    """With llama.cpp's names, of today and of before."""

    spec_type: Annotated[
        str | None,
        _draft(
            "--spec-type",
            metavar="TYPE",
            help="Who proposes tokens for a step to verify: ngram (what followed before), draft (-md), "
            "mtp (the model's own extra heads).",
        ),
    ] = None
    model_draft: Annotated[
        Path | None,
        _draft(
            "-md", "--model-draft", "--spec-draft-model", metavar="FILE", help="A small model of the same vocabulary."
        ),
    ] = None
    draft_max: Annotated[
        int | None,
        _draft(
            "--draft-max",
            "--draft",
            "--draft-n",
            "--spec-draft-n-max",
            metavar="N",
            help="Most tokens of a draft; a step verifies 15, and fewer where fewer pay.",
        ),
    ] = None
    draft_min: Annotated[
        int | None,
        _draft("--draft-min", "--draft-n-min", "--spec-draft-n-min", metavar="N", help="Shorter drafts are dropped."),
    ] = None
    draft_p_min: Annotated[
        float | None,
        _draft("--draft-p-min", "--spec-draft-p-min", metavar="P", help="A draft ends before a less likely token."),
    ] = None
    gpu_layers_draft: Annotated[
        int | None,
        _draft(
            "-ngld",
            "--gpu-layers-draft",
            "--n-gpu-layers-draft",
            "--spec-draft-ngl",
            metavar="N",
            help="Layers of the draft model on the GPU; without: none.",
        ),
    ] = None
    ctx_size_draft: Annotated[
        int | None,
        _draft("-cd", "--ctx-size-draft", metavar="N", help="Context of the draft model; without: the model's."),
    ] = None
    ngram_size_n: Annotated[
        int | None,
        _draft(
            "--spec-ngram-size-n",
            "--spec-ngram-simple-size-n",
            metavar="N",
            help="Tokens that must have been there before.",
        ),
    ] = None
    ngram_size_m: Annotated[
        int | None,
        _draft(
            "--spec-ngram-size-m", "--spec-ngram-simple-size-m", metavar="N", help="Most tokens proposed behind them."
        ),
    ] = None
    ngram_min_hits: Annotated[
        int | None,
        _draft(
            "--spec-ngram-min-hits", "--spec-ngram-simple-min-hits", metavar="N", help="How often, at least; default 1."
        ),
    ] = None

    def options(self) -> "DraftOptions":
        """Raises UsageError: what cannot be meant."""
        from powerinfer_cli.drafting import draft_options

        return draft_options(
            self.spec_type,
            self.model_draft,
            most=self.draft_max,
            least=self.draft_min,
            p_min=self.draft_p_min,
            size_n=self.ngram_size_n,
            size_m=self.ngram_size_m,
            min_hits=self.ngram_min_hits,
            n_gpu_layers=self.gpu_layers_draft,
            n_ctx=self.ctx_size_draft,
        )
