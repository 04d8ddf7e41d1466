"""What a model that ranks texts has behind its pooled vector: classification heads."""

from powerinfer_cli.gguf_io import Strings, Tensor
from powerinfer_cli.model.blocks import Linear, Norm, NormKind, Scorer, ScorerActivation
from powerinfer_cli.model.tensors import ModelReader

__all__ = ["read_scorer"]

MODERN = "modern-bert"
SHARES = ("qwen3", "qwen3vl")  # of these the scores are shares of 1
MEAN = 1  # of GGUF's kinds of pooling
MOST_LABELS = 1 << 12


def read_scorer(model: ModelReader) -> Scorer[Tensor, Tensor] | None:
    """By llama.cpp's tensors `cls`, `cls.norm` and `cls.output`; None where there is none of these.

    Raises PowerInferError: shapes that do not fit.
    """
    if not any(name in model.gguf.tensors for name in ("cls.weight", "cls.output.weight")):
        return None
    modern, dense, width = model.arch.name == MODERN, _linear(model, "cls", model.n_embd), model.n_embd
    if dense is not None:
        width = dense.weight.shape[0]
    weight = model.maybe("cls.norm.weight", width) if dense is not None else None
    norm = None if weight is None else Norm[Tensor](NormKind.LAYER, model.sizes.norm_eps, weight, None)
    kind = model.keys.integer("classifier.pooling_type", MEAN if modern else 0, high=1 << 32)
    causal = model.keys.flag("attention.causal", default=model.arch.causal)
    return Scorer(
        dense,
        ScorerActivation.GELU if modern else ScorerActivation.TANH,
        norm,
        _linear(model, "cls.output", width),
        "mean" if kind == MEAN else "last" if causal else "cls",
        _labels(model),
        softmax=model.arch.name in SHARES,
    )


def _linear(model: ModelReader, name: str, columns: int) -> Linear[Tensor, Tensor] | None:
    weight = model.maybe(f"{name}.weight", None, columns)
    if weight is None:
        return None
    if not 0 < weight.shape[0] <= max(MOST_LABELS, columns):
        model.fail(f"tensor {name}.weight has {weight.shape[0]} rows: not supported")
    return Linear(weight, model.maybe(f"{name}.bias", weight.shape[0]))


def _labels(model: ModelReader) -> tuple[str, ...]:
    found = model.gguf.metadata.get(f"{model.arch.name}.classifier.output_labels")
    return tuple(found)[:MOST_LABELS] if isinstance(found, Strings) else ()
