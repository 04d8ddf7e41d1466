"""The engine: token ids in, logits out. Knows nothing of text."""

from powerinfer_cli.runtime.engine import ContextFull, Engine, EngineOptions
from powerinfer_cli.runtime.ffn import SparsityStats
from powerinfer_cli.runtime.memory import available_memory, peak_memory

__all__ = ["ContextFull", "Engine", "EngineOptions", "SparsityStats", "available_memory", "peak_memory"]
