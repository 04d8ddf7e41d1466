"""A file's header as plain values, which are JSON; and what a model's file means for this engine."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import Entry, MetaValue, Strings, Survey, ValueType
from powerinfer_cli.model import Model, load_model
from powerinfer_cli.opening.model_file import open_model_file
from powerinfer_cli.opening.outlook import model_kind
from powerinfer_cli.runtime.traffic import count_traffic
from powerinfer_cli.text import Tokenizer

__all__ = ["findings"]

Plain: TypeAlias = dict[str, Any]

SHOWN = 8  # items of an array
LONGEST = 1 << 16  # characters of a text


def findings(found: Survey) -> Plain:
    """file, metadata, tokenizer, types, tensors; model or why it does not run; fault."""
    arch = found.metadata.get("general.architecture")
    file = {
        "path": str(found.path),
        "bytes": found.size,
        "magic": "PWRI" if found.sparse else "GGUF",
        "version": found.version,
        "tensors": found.n_tensors,
        "entries": found.n_entries,
        "architecture": arch.value if arch is not None and isinstance(arch.value, str) else None,
    }
    told: Plain = {"file": file, "metadata": {key: _shown(entry) for key, entry in found.metadata.items()}}
    told["tokenizer"] = _tokenizer(found)
    told["types"] = _types(found)
    told["tensors"] = [
        {"name": one.name, "type": one.type.name, "shape": list(one.shape), "bytes": one.nbytes}
        for one in found.tensors
    ]
    told["fault"] = found.fault
    told["model"], told["refused"] = (None, None) if found.fault else _model(found.path)
    return told


def _shown(entry: Entry) -> Plain:
    value = entry.value
    if entry.kind is ValueType.FLOAT32 and isinstance(value, float):
        value = float(str(np.float32(value)))  # as short as it was written
    if isinstance(value, str | bool | int | float):
        return {"type": entry.kind.name, "value": _plain(value)}
    items = [_plain(one) for one in value[:SHOWN]]
    return {"type": _array_type(value), "length": len(value), "first": items}


def _array_type(value: MetaValue) -> str:
    if isinstance(value, Strings):
        return "ARRAY of STRING"
    return f"ARRAY of {value.dtype.name.upper()}" if isinstance(value, np.ndarray) else "ARRAY of ARRAY"


def _plain(value: Any) -> Any:
    """JSON has no numbers that are not finite, and no surrogates."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return value[:LONGEST].encode(errors="replace").decode()
    return [_plain(one) for one in value[:SHOWN]] if isinstance(value, list | np.ndarray | Strings) else value


def _tokenizer(found: Survey) -> Plain | None:
    def value(key: str) -> Any:
        entry = found.metadata.get(f"tokenizer.{key}")
        return None if entry is None else entry.value

    tokens, merges, template = value("ggml.tokens"), value("ggml.merges"), value("chat_template")
    if tokens is None and value("ggml.model") is None:
        return None
    special = {
        name: _plain(value(f"ggml.{name}_token_id"))
        for name in ("bos", "eos", "eot", "unknown", "padding")
        if value(f"ggml.{name}_token_id") is not None
    }
    return {
        "kind": _plain(value("ggml.model")),
        "pre": _plain(value("ggml.pre")),
        "tokens": len(tokens) if isinstance(tokens, Strings) else None,
        "merges": len(merges) if isinstance(merges, Strings) else None,
        "special": special,
        "template": _plain(template) if isinstance(template, str) else None,
    }


def _types(found: Survey) -> Plain:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for one in found.tensors:
        counts[one.type.name] += 1
        sizes[one.type.name] += one.nbytes
    return {name: {"tensors": counts[name], "bytes": size} for name, size in sizes.most_common()}


def _model(path: Path) -> tuple[Plain | None, str | None]:
    """What runs here, or why it does not."""
    try:
        with open_model_file(path) as gguf:
            model = load_model(gguf)
            Tokenizer.from_gguf(gguf)
            parameters = sum(one.n_elements for one in gguf.tensors.values())
            return {"parameters": parameters, **_facts(model, gguf.metadata)}, None
    except PowerInferError as error:
        return None, str(error)


def _facts(model: Model, metadata: Mapping[str, Any]) -> Plain:
    config = model.config
    traffic = count_traffic(model, "f16", "f16", config.n_ff)
    facts: Plain = {
        "name": _plain(config.name),
        "architecture": config.architecture.name,
        "kind": model_kind(model, metadata),
        "layers": config.n_layer,
        "embedding": config.n_embd,
        "neurons": _one_or_all(config.n_ff),
        "context": config.n_ctx_train,
        "vocabulary": config.n_vocab,
        "activation": config.activation.value,
        "exact_zeros": config.activation.has_exact_zeros,
        "bytes": model.nbytes,
        "bytes_per_token": round(traffic.per_token(0)),
        "cache_bytes_per_position": round(sum(traffic.position.values())),
        "notes": list(model.notes),
    }
    if model.has_experts:
        facts["experts"] = _one_or_all(model.n_experts.values())
        facts["chosen"] = _one_or_all(model.n_chosen.values())
    if config.sparse:
        facts["threshold"] = config.sparse_threshold
        facts["bytes_of_neurons"] = sum(traffic.gate) + sum(traffic.neurons)
    return facts


def _one_or_all(numbers: Any) -> Any:
    """A number where all are alike."""
    all_ = [int(one) for one in numbers]
    return all_[0] if len(set(all_)) == 1 else all_
