"""A checkpoint on the hub, which `convert` makes a file of: configuration, tokenizer and weights, brought here."""

from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.hub.api import Hub, HubUnreachable
from powerinfer_cli.hub.choice import Wish
from powerinfer_cli.hub.request import LOCAL_DIR, Request, fetch, parse_spec
from powerinfer_cli.hub.watch import Watch

__all__ = ["fetch_checkpoint"]

BESIDE = (
    *("config.json", "generation_config.json", "README.md", "tokenizer.json", "tokenizer.model"),
    *("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja"),
    *("chat_template.json", "merges.txt", "vocab.json", "modules.json", "1_Pooling/config.json"),
)
SAFE = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")


def fetch_checkpoint(
    repo: str, progress: Watch, *, token: str | None = None, local_dir: Path = LOCAL_DIR, revision: str | None = None
) -> Path:
    """The folder where all of it is; pickles only where there is nothing safer. Goes on where an earlier download
    ended. Raises PowerInferError.
    """
    name, _, _ = parse_spec(repo)
    with progress as watch:
        weights: tuple[str, ...] = (*SAFE, *PICKLED)
        try:
            paths = {file.path for file in Hub(token).listing(name, revision).files}
        except HubUnreachable:  # all may be here already
            paths = set()
        if paths:
            safe = "model.safetensors" in paths or f"{SAFE[0]}.index.json" in paths
            weights = SAFE if safe else PICKLED
            if "config.json" not in paths:
                raise PowerInferError(f"{name} has no config.json: not a checkpoint as transformers saves them")
        request = Request(name, Wish(include=(*BESIDE, *weights)), local_dir, revision, token)
        return fetch(request, watch).folder
