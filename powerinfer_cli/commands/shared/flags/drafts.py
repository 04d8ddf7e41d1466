"""Who proposes tokens, for every command that writes a text."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerinfer_cli.commands.shared.flags.store import complete_model
from powerinfer_cli.errors import UsageError

if TYPE_CHECKING:  # imports torch
    from powerinfer_cli.drafting import DraftOptions

__all__ = ["DraftFlags"]


def _draft(*names: str, help: str, **more: Any) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, rich_help_panel="Drafting", **more)


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
            "-md",
            "--model-draft",
            "--spec-draft-model",
            metavar="FILE|NAME",
            help="A small model of the same vocabulary.",
            autocompletion=complete_model,
        ),
    ] = None
    hf_draft: Annotated[
        str | None,
        _draft(
            "-hfd",
            "-hfrd",
            "--hf-repo-draft",
            "--spec-draft-hf",
            metavar="REPO[:QUANT]",
            help="Fetch it from the Hugging Face hub.",
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

    def options(self, hf_token: str | None = None) -> "DraftOptions":
        """With a draft model that is here; -hfd fetches it.

        Raises:
            UsageError: what cannot be meant.
            PowerInferError: no such model, or the download fails.
        """
        from powerinfer_cli.hub.local import named_model

        if self.model_draft and self.hf_draft:
            raise UsageError("-md and -hfd exclude each other: give one draft model")
        if self.hf_draft is None:
            return self._options(None if self.model_draft is None else named_model(self.model_draft))
        self._options(Path(self.hf_draft))  # what cannot be meant is not fetched
        from powerinfer_cli.commands.download.progress import make_watch
        from powerinfer_cli.hub import fetch_model

        return self._options(fetch_model(self.hf_draft, make_watch(), token=hf_token))

    def _options(self, model: Path | None) -> "DraftOptions":
        from powerinfer_cli.drafting import draft_options

        return draft_options(
            self.spec_type,
            model,
            most=self.draft_max,
            least=self.draft_min,
            p_min=self.draft_p_min,
            size_n=self.ngram_size_n,
            size_m=self.ngram_size_m,
            min_hits=self.ngram_min_hits,
            n_gpu_layers=self.gpu_layers_draft,
            n_ctx=self.ctx_size_draft,
        )
