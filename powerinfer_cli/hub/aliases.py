"""Short names for the models that people start from.

Repositories, file names, sizes and licences are those of each repository's `main`; what is not known is None.
The ReluFalcon repository is gated: its file list is seen only after accepting its terms.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from powerinfer_cli.errors import PowerInferError

__all__ = ["ALIASES", "GROUPS", "Alias", "is_for_chat", "resolve"]


@dataclass(frozen=True)
class Alias:
    """`size`: of each file of weights that there is reason to take. `default`: the file to take when several are left.
    `chat`: trained to answer.
    """

    name: str
    repo: str
    size: str | None
    license: str | None
    note: str = ""
    default: str | None = None
    chat: bool = False


_SMALL = (
    Alias(
        "smollm2-135m",
        "bartowski/SmolLM2-135M-Instruct-GGUF",
        "105 MB q4",
        "apache-2.0",
        default="SmolLM2-135M-Instruct-Q4_K_M.gguf",
        chat=True,
    ),
    Alias(
        "smollm2-360m",
        "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF",
        "386 MB q8",
        "apache-2.0",
        default="smollm2-360m-instruct-q8_0.gguf",
        chat=True,
    ),
    Alias(
        "qwen2.5-0.5b",
        "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
        "491 MB q4",
        "apache-2.0",
        default="qwen2.5-0.5b-instruct-q4_k_m.gguf",
        chat=True,
    ),
    Alias("qwen3-0.6b", "Qwen/Qwen3-0.6B-GGUF", "639 MB q8", "apache-2.0", default="Qwen3-0.6B-Q8_0.gguf", chat=True),
)
_LARGE = (
    Alias("bamboo-7b", "PowerInfer/Bamboo-base-v0.1-gguf", "4.68 GB q4, 16 GB f16", "apache-2.0"),
    Alias("bamboo-7b-dpo", "PowerInfer/Bamboo-DPO-v0.1-gguf", "4.68 GB q4, 16 GB f16", "apache-2.0", chat=True),
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

GROUPS = {"Small, dense, for a first chat": _SMALL, "Sparse, for what PowerInfer is made for": _LARGE}
ALIASES = {alias.name: alias for group in GROUPS.values() for alias in group}


def is_for_chat(repo: str) -> bool:
    """Whether a repository is known to hold a model that was trained to answer."""
    return any(alias.chat and alias.repo.lower() == repo.lower() for alias in ALIASES.values())


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
