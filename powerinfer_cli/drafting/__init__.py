"""Several tokens a step: who proposes what may come next, and the engine that verifies it."""

from powerinfer_cli.drafting.drafter import Draft, Drafter, Wish
from powerinfer_cli.drafting.engine import DraftingEngine
from powerinfer_cli.drafting.ngrams import NgramDrafter
from powerinfer_cli.drafting.options import DraftOptions, SpecType, draft_options

__all__ = ["Draft", "DraftOptions", "Drafter", "DraftingEngine", "NgramDrafter", "SpecType", "Wish", "draft_options"]
