"""Short names for the models that people start from.

Repositories, file sizes and licences are those that the hub's own pages show for each repository's `main`; what
they do not show is None. The ReluFalcon repository is gated: its file list is seen only after accepting its terms.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from powerinfer_cli.errors import PowerInferError

__all__ = ["ALIASES", "Alias", "resolve"]


@dataclass(frozen=True)
class Alias:
    """`size`: of each file of weights, as the hub shows it. `default`: the file to take when several are left."""

    name: str
    repo: str
    size: str | None
    license: str | None
    note: str = ""
    default: str | None = None


_LIST = (
    Alias("bamboo-7b", "PowerInfer/Bamboo-base-v0.1-gguf", "4.68 GB q4\n16 GB f16", "apache-2.0"),
    Alias("bamboo-7b-dpo", "PowerInfer/Bamboo-DPO-v0.1-gguf", "4.68 GB q4\n16 GB f16", "apache-2.0", "for chat"),
    Alias(
        "prosparse-llama-2-7b",
        "PowerInfer/prosparse-llama-2-7b-gguf",
        "14.5 GB f16",
        "llama2",
        # As its model card says: the other predictors find more neurons inactive, at a lower recall.
        "faster, less exact: --include '*clip15*'",
        default="prosparse-llama-2-7b.gguf",
    ),
    Alias("prosparse-llama-2-13b", "PowerInfer/prosparse-llama-2-13b-gguf", "27.6 GB f16", "llama2"),
    Alias("relullama-7b", "PowerInfer/ReluLLaMA-7B-PowerInfer-GGUF", "15.1 GB f16", "llama2"),
    Alias("relullama-13b", "PowerInfer/ReluLLaMA-13B-PowerInfer-GGUF", "28.3 GB f16", "llama2"),
    Alias("relullama-70b", "PowerInfer/ReluLLaMA-70B-PowerInfer-GGUF", "42.2 GB q4", "llama2"),
    Alias(
        "relufalcon-40b",
        "PowerInfer/ReluFalcon-40B-PowerInfer-GGUF",
        None,
        None,
        "gated: accept its terms on the hub first",
    ),
)

ALIASES = {alias.name: alias for alias in _LIST}


def resolve(name: str) -> tuple[str, str | None]:
    """(repository, its default file) for an alias in any case, or for OWNER/NAME itself."""
    alias = ALIASES.get(name.lower())
    if alias:
        return alias.repo, alias.default
    if "/" in name:
        known = next((a for a in ALIASES.values() if a.repo.lower() == name.lower()), None)
        return name, known.default if known else None
    raise PowerInferError(
        f"'{name}' is neither an alias nor OWNER/NAME{_suggestion(name, list(ALIASES))}; "
        "`powerinfer download --list` shows the aliases"
    )


def _suggestion(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
