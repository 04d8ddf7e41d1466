"""Which files of a repository make up the model that was asked for. Pure: names and sizes in, names out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.system.files import takes_name

__all__ = ["Choice", "Model", "Wish", "choose", "find_models", "is_safe", "size_text"]

MANIFEST = ".powerinfer-download.json"

# llama.cpp names the parts of a split file so, the numbers from 1.
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
# Names of ggml's types and quantisation mixes, as GGUF files carry them between separators.
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])((?:I?Q|TQ)\d(?:_(?:\d|[A-Z]{1,3}(?![A-Za-z0-9])))*|BF16|FP?16|FP?32|MXFP4(?:_MOE)?)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
# GGUF files that are no language model: image encoders and importance matrices.
_NO_MODEL = re.compile(r"(^|[-._])(mmproj|imatrix)([-._]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Wish:
    """What the user asked for. `default`: a file to prefer, `fallbacks`: quants to prefer, when several are left."""

    quant: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    default: str | None = None
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """One GGUF file, or every part of a split one in order. `missing`: how many parts the repository lacks."""

    files: tuple[str, ...]
    missing: int = 0

    @property
    def path(self) -> str:
        return self.files[0]

    @property
    def quant(self) -> str:
        """As the file's name says, else its folder's, in ggml's spelling; "" when neither does."""
        path = PurePosixPath(self.path)
        for text in (path.name, path.parent.name):
            found = _QUANT.findall(text)
            if found:
                return _spelling(found[-1])
        return ""

    @property
    def sparse_by_name(self) -> bool:
        return ".powerinfer" in PurePosixPath(self.path).name.lower()


@dataclass(frozen=True)
class Choice:
    """The models chosen, and every file to fetch for them, weights first."""

    models: tuple[Model, ...]
    files: tuple[str, ...]


def is_safe(path: str) -> bool:
    """Whether a name from the hub is a plain relative path: it is going to be a file name on this machine."""
    if not path or not path.isprintable() or "\\" in path or ":" in path.partition("/")[0]:
        return False
    return all(part not in ("", ".", "..") and takes_name(part) for part in path.split("/")) and path != MANIFEST


def find_models(paths: Iterable[str]) -> list[Model]:
    """Every model among `paths`, sorted by name; parts of one split file are one model."""
    whole: list[Model] = []
    parts: dict[tuple[str, int], dict[int, str]] = {}
    for path in sorted(paths):
        name = PurePosixPath(path).name
        if not name.lower().endswith(".gguf") or _NO_MODEL.search(name):
            continue
        match = _PART.fullmatch(path)
        if match:
            parts.setdefault((match["stem"], int(match["count"])), {})[int(match["number"])] = path
        else:
            whole.append(Model((path,)))
    for (_, count), found in parts.items():
        here = tuple(found[number] for number in sorted(found) if 1 <= number <= count)
        if here:
            whole.append(Model(here, missing=count - len(here)))
    return sorted(whole, key=lambda model: model.path)


def choose(repo: str, sizes: Mapping[str, int | None], wish: Wish) -> Choice:
    """The files of `repo` (path -> bytes) that `wish` means; PowerInferError with the choices when it is not clear."""
    models = find_models(sizes)
    wanted = [m for m in models if not any(_matches(path, wish.exclude) for path in m.files)]
    if wish.include:
        wanted = [m for m in wanted if any(_matches(path, wish.include) for path in m.files)]
    if wish.quant:
        wanted = _of_quant(wanted, wish.quant)
    if not wish.include:
        wanted = [_only_one(repo, wanted, models, sizes, wish)]
    elif wish.quant and not wanted:
        raise PowerInferError(_none_left(repo, models, sizes))
    for model in wanted:
        if model.missing:
            raise PowerInferError(f"{repo} lacks {model.missing} of the parts of {model.path}: nothing was downloaded")

    files = [path for model in wanted for path in model.files]
    weights = {path for model in models for path in model.files}
    files += [path for path in sorted(sizes) if path not in weights and _matches(path, wish.include)]
    files += [path for model in wanted for path in _statistics(model, sizes)]
    kept = tuple(dict.fromkeys(path for path in files if not _matches(path, wish.exclude)))
    if not kept:
        raise PowerInferError(f"no file of {repo} matches --include {' '.join(wish.include)}: {_list(models, sizes)}")
    return Choice(tuple(wanted), kept)


def _only_one(
    repo: str, wanted: Sequence[Model], models: Sequence[Model], sizes: Mapping[str, int | None], wish: Wish
) -> Model:
    if not wanted:
        raise PowerInferError(_none_left(repo, models, sizes))
    # PowerInfer's repositories hold each model twice, with predictors and without.
    sparse = [model for model in wanted if model.sparse_by_name] or list(wanted)
    by_rule = [[m for m in sparse if m.path == wish.default]]
    by_rule += [[m for m in sparse if m.quant == quant] for quant in wish.fallbacks if not wish.quant]
    for left in (sparse, *by_rule):
        if len(left) == 1:
            return left[0]
    quants = [model.quant or "F16" for model in sparse]
    if len(set(quants)) == len(quants):
        choices = ", ".join(f"{q} ({_bytes(m, sizes)})" for q, m in zip(quants, sparse, strict=True))
        raise PowerInferError(f"{repo} holds {len(sparse)} models, choose one with --quant or {repo}:QUANT: {choices}")
    raise PowerInferError(f"{repo} holds {len(sparse)} such models, choose one with --include: {_list(sparse, sizes)}")


def _none_left(repo: str, models: Sequence[Model], sizes: Mapping[str, int | None]) -> str:
    if not models:
        return f"{repo} holds no GGUF file: choose a repository with GGUF weights"
    return f"no model of {repo} matches; it holds {_list(models, sizes)}"


def _of_quant(models: Sequence[Model], quant: str) -> list[Model]:
    """The models of the first rule that any model meets: that very quant, its family (q4: Q4_0, Q4_K_M), that text
    between separators in the name, and for f16 the names that tell nothing, as PowerInfer's F16 files' names do."""
    wanted = _spelling(quant)
    text = re.compile(rf"(?<![a-z0-9]){re.escape(quant.lower())}(?![a-z0-9])")
    rules = (
        [m for m in models if m.quant == wanted],
        [m for m in models if m.quant.startswith(f"{wanted}_")],
        [m for m in models if text.search(m.path.lower())],
        [m for m in models if wanted == "F16" and not m.quant],
    )
    return next((found for found in rules if found), [])


def _statistics(model: Model, paths: Iterable[str]) -> list[str]:
    """The activation/ folder beside the weights, else the repository's own."""
    ordered = sorted(paths)
    for folder in dict.fromkeys((PurePosixPath(model.path).parent, PurePosixPath("."))):
        found = [path for path in ordered if PurePosixPath(path).parent == folder / "activation"]
        if found:
            return found
    return []


def _matches(path: str, globs: Iterable[str]) -> bool:
    # As huggingface_hub does: `*` crosses slashes, and `folder/` means all that is in it.
    return any(fnmatchcase(path, f"{glob}*" if glob.endswith("/") else glob) for glob in globs)


def _spelling(quant: str) -> str:
    return {"FP16": "F16", "FP32": "F32"}.get(quant.upper(), quant.upper())


def _list(models: Sequence[Model], sizes: Mapping[str, int | None]) -> str:
    return ", ".join(f"{m.path} ({_bytes(m, sizes)})" for m in models) or "no GGUF file"


def _bytes(model: Model, sizes: Mapping[str, int | None]) -> str:
    known = [size for path in model.files if (size := sizes[path]) is not None]
    return size_text(sum(known)) if len(known) == len(model.files) else "size unknown"


def size_text(size: float) -> str:
    """Bytes in the hub's own decimal units: 4.68 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 999.5 else f"{size:,.0f} TB"
