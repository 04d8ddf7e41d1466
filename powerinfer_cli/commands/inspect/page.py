"""What was found, for people."""

from collections.abc import Iterator
from typing import Any

from powerinfer_cli.printable import printable

__all__ = ["page"]

MEBI = 1 << 20
WIDEST = 100  # characters of a value


def page(told: dict[str, Any], *, tensors: bool, template: bool) -> str:
    """Some lines a part, with empty ones between."""
    parts = [
        _file(told),
        _metadata(told),
        _tokenizer(told, template=template),
        _types(told, tensors=tensors),
        _end(told),
    ]
    return "\n\n".join("\n".join(lines) for lines in (list(part) for part in parts) if lines)


def _file(told: dict[str, Any]) -> Iterator[str]:
    file = told["file"]
    kind = "PowerInfer GGUF" if file["magic"] == "PWRI" else "GGUF"
    yield f"{_line(file['path'])}: {kind} version {file['version']}, {_size(file['bytes'])}"


def _metadata(told: dict[str, Any]) -> Iterator[str]:
    width = max((len(_line(key)) for key in told["metadata"]), default=0)
    for key, entry in told["metadata"].items():
        if "value" in entry:
            yield f"{_line(key):{width}}  {_line(entry['value'])}"
        else:
            first = ", ".join(_line(one) for one in entry["first"])
            more = ", ..." if entry["length"] > len(entry["first"]) else ""
            items = f"{entry['length']} items: {first}{more}"
            yield f"{_line(key):{width}}  {_line(items)}"


def _tokenizer(told: dict[str, Any], *, template: bool) -> Iterator[str]:
    found = told["tokenizer"]
    if found is None:
        return
    pre = f", pre-tokenizer {_line(found['pre'])}" if found["pre"] else ""
    special = "".join(f", {name} {_line(number)}" for name, number in found["special"].items())
    yield f"tokenizer: {_line(found['kind'])}{pre}, {found['tokens']} tokens, {found['merges'] or 0} merges{special}"
    text = found["template"]
    yield f"chat template: {f'{len(text)} characters' if text else 'none'}"
    if text and template:
        yield from (printable(line, " ") for line in text.splitlines())


def _types(told: dict[str, Any], *, tensors: bool) -> Iterator[str]:
    for name, one in told["types"].items():
        yield f"{name:8} {one['tensors']:5} tensors  {_size(one['bytes']):>12}"
    if tensors:
        width = max((len(_line(one["name"])) for one in told["tensors"]), default=0)
        yield ""
        for one in told["tensors"]:
            shape = " x ".join(map(str, one["shape"]))
            yield f"{_line(one['name']):{width}}  {one['type']:8} {shape:20} {_size(one['bytes']):>12}"


def _end(told: dict[str, Any]) -> Iterator[str]:
    """What becomes of it here."""
    model = told["model"]
    if told["fault"]:
        yield f"broken: {_line(told['fault'], 400)}"
    elif told["refused"]:
        yield f"does not run here: {_line(told['refused'], 400)}"
    if model is None:
        return
    yield f"runs here as {model['architecture']}: {model['kind']}, {_count(model['parameters'])} parameters"
    yield f"{model['layers']} layers of {model['embedding']}, {_numbers(model['neurons'])} neurons each"
    if "experts" in model:
        yield f"experts: {_numbers(model['experts'])} a layer, {_numbers(model['chosen'])} chosen by a token"
    yield f"activation: {model['activation']}, {'with' if model['exact_zeros'] else 'without'} exact zeros"
    yield f"context: {model['context']} positions, {model['cache_bytes_per_position']} bytes each in the cache (f16)"
    yield f"bytes read for a token: {_size(model['bytes_per_token'])} of {_size(model['bytes'])}{_saved(model)}"
    yield from (f"note: {_line(note, 400)}" for note in model["notes"])


def _saved(model: dict[str, Any]) -> str:
    if "bytes_of_neurons" not in model:
        return ""
    return f", at most: {_size(model['bytes_of_neurons'])} are neurons, of which active ones are read"


def _numbers(value: Any) -> str:
    return str(value) if not isinstance(value, list) else f"{min(value)} to {max(value)}"


def _line(value: Any, widest: int = WIDEST) -> str:
    text = printable(str(value)[: widest + 1], " ")
    return text if len(text) <= widest else text[: widest - 3] + "..."


def _size(n_bytes: int) -> str:
    return f"{n_bytes / MEBI:.1f} MiB" if n_bytes >= MEBI else f"{n_bytes} bytes"


def _count(number: int) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
