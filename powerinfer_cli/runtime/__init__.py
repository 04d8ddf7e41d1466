"""The engine: token ids in, logits out. Knows nothing of text."""

from powerinfer_cli.runtime.context.sequences import common_prefix
from powerinfer_cli.runtime.engine import ContextFull, Engine
from powerinfer_cli.runtime.options import EngineOptions, LoadEvents
from powerinfer_cli.runtime.stats import Drafted, LayerNeurons, SparsityStats
from powerinfer_cli.runtime.step import Answer, Piece, Wanted
from powerinfer_cli.system.memory import available_memory, peak_memory

__all__ = [
    "Answer",
    "ContextFull",
    "Drafted",
    "Engine",
    "EngineOptions",
    "LayerNeurons",
    "LoadEvents",
    "Piece",
    "SparsityStats",
    "Wanted",
    "available_memory",
    "common_prefix",
    "peak_memory",
]
