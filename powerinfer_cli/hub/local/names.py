"""Names of models: what -m means that is no file."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.hub.aliases import ALIASES
from powerinfer_cli.hub.local.folders import MODELS, hub_cache, stored_models
from powerinfer_cli.hub.local.stored import StoredModel

__all__ = ["completions", "find_stored", "here", "named_model"]


def here(folders: Sequence[Path] = (), note: Callable[[str], None] = lambda line: None) -> list[StoredModel]:
    """What is in ./models, in other folders and in the hub's cache. note: told of names that two have.

    Raises PowerInferError.
    """
    usual = [MODELS] if MODELS.is_dir() else []
    return stored_models([*folders, *usual], hub_cache(), note)


def named_model(given: Path, folders: Sequence[Path] = ()) -> Path:
    """The file that -m means: a path as it is, or a name of a model here or in folders. Raises PowerInferError."""
    if given.exists() or given.is_symlink() or given.suffix.lower() == ".gguf" or given.is_absolute():
        return given  # opening it says what is wrong
    return find_stored(str(given), here(folders)).path


def find_stored(name: str, models: Sequence[StoredModel]) -> StoredModel:
    """By name in any case, by an alias of `download`, or by what only one name begins with. Raises PowerInferError."""
    wanted = name.lower()
    alias = ALIASES.get(wanted)
    folder = None if alias is None else alias.repo.rpartition("/")[2].lower()
    rules = (
        [model for model in models if model.name.lower() == wanted],
        [model for model in models if folder and _base(model) in (folder, alias and alias.repo.lower())],
        [model for model in models if model.name.lower().startswith(wanted)],
        [model for model in models if _base(model).rpartition("/")[2].startswith(wanted)],
    )
    found = next((rule for rule in rules if rule), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise PowerInferError(f"'{name[:80]}' may be {_listed(found)}: say which")
    near = difflib.get_close_matches(wanted, [model.name.lower() for model in models], n=1)
    meant = next((f"; did you mean {model.name}?" for model in models if near and model.name.lower() == near[0]), "")
    raise PowerInferError(f"'{name[:80]}' is no file, nor a model here{meant or ': `powerinfer list` shows them'}")


def completions(begun: str) -> list[str]:
    """Names for a shell, of what begins so."""
    try:
        return [model.name for model in here() if model.name.lower().startswith(begun.lower())]
    except PowerInferError:
        return []


def _base(model: StoredModel) -> str:
    return model.name.lower().partition(":")[0]


def _listed(models: Sequence[StoredModel]) -> str:
    names = [model.name for model in models[:5]]
    return " or ".join(names) + (f" or one of {len(models) - 5} more" if len(models) > 5 else "")
