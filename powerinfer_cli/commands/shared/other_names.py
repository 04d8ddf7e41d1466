"""What other programs call our commands: a word for who types their names."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["advice"]

_CHAT, _GENERATE = "powerinfer main {model} -cnv", 'powerinfer main {model} -p "..."'
_SERVE = "powerinfer server {model}"
_OTHERS = {
    ("chat", "ask"): f"to chat: `{_CHAT}`; to continue a text: `{_GENERATE}`",
    ("generate", "complete", "completion", "cli", "llama-cli", "llama-run"): f"`{_GENERATE}`, or `{_CHAT}` for a chat",
    ("serve", "start", "api", "llama-server"): f"`{_SERVE}`",
    ("pull", "get", "fetch"): "`powerinfer download OWNER/NAME`, or one of the names of `powerinfer download --list`",
    ("ls", "models"): "`powerinfer list`; `powerinfer download --list` shows models to start from",
    ("search",): "`powerinfer download --list` shows models to start from",
    ("delete", "remove"): "`powerinfer rm NAME`",
    ("benchmark", "llama-bench"): "`powerinfer bench {model}`",
    ("ppl", "llama-perplexity"): "`powerinfer perplexity {model} -f TEXT`",
    ("profile", "train", "plan"): "`powerinfer solve {model} --{name}-only`",
    ("help",): "`powerinfer --help`, or `powerinfer COMMAND --help`",
    ("version",): "`powerinfer --version`",
}
_BY_NAME = {name: meant for names, meant in _OTHERS.items() for name in names}


def advice(words: Sequence[str]) -> str | None:
    """Where the first of a command line's words leads, if it is no command; None where nothing is known of it."""
    name, *rest = words
    if name.endswith(".gguf"):
        return f'a model follows -m: `powerinfer main -m {name} -cnv` for a chat, or with -p "..."'
    meant = _BY_NAME.get(name)
    return meant and meant.format(model=_model_flag(rest), name=name)


def _model_flag(words: Sequence[str]) -> str:
    """For the model that somebody named as such programs take it: alone, behind the command."""
    name = words[0] if words and not words[0].startswith("-") else ""
    if name.endswith(".gguf") or (name and Path(name).is_file()):
        return f"-m {name}"
    return f"-hf {name}" if name.count("/") == 1 else "-m FILE.gguf"
