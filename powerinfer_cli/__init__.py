"""PowerInfer: large language models on one small GPU, or none, by activation locality.

from powerinfer_cli import open_model

with open_model("model.gguf") as model:
    for piece in model.generate("Once upon a time", max_tokens=64):
        print(piece, end="", flush=True)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from powerinfer_cli.errors import PowerInferError, UsageError

if TYPE_CHECKING:  # imported when first asked for, so that programs start quickly
    from powerinfer_cli.opening import Answer, OpenModel, TextStream, open_model

__all__ = ["Answer", "OpenModel", "PowerInferError", "TextStream", "UsageError", "__version__", "open_model"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("powerinfer_cli.opening"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
