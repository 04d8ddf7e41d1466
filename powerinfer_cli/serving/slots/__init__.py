"""The thread that owns the engine: which slot gets which task, what each step carries, what is told of it. No HTTP."""

from powerinfer_cli.serving.slots.engine_thread import EngineThread

__all__ = ["EngineThread"]
