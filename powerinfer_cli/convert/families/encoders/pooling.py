"""What encoders' checkpoints say beside their numbers: how vectors are pooled, and how classes are called."""

from typing import Any

from powerinfer_cli.convert.checkpoint import Config, read_json_file
from powerinfer_cli.convert.conversion import KeyValues
from powerinfer_cli.json_text import read_json

__all__ = ["encoder_keys", "labels", "without_front"]

MODES = {"mean": 1, "cls": 2, "lasttoken": 3}
OLDER = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}
MOST_BYTES = 1 << 20


def without_front(config: Config, name: str) -> str:
    """Of those that stand before an encoder's names; older names of norms' numbers are today's."""
    for front in ("bert.", "roberta.", "distilbert.", "model.", "base_model."):
        name = name.removeprefix(front)
    for older, ending in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(older):
            name = name.removesuffix(older) + ending
    return name


def encoder_keys(config: Config) -> KeyValues:
    """Both sides are seen. How a text's vector is made of its tokens', where sentence-transformers' files are there."""
    keys: KeyValues = {"attention.causal": False, "pooling_type": _pooling(config)}
    if config.get("classifier_pooling") in ("mean", "cls"):
        keys["classifier.pooling_type"] = MODES[config.get("classifier_pooling")]
    if labels(config):
        keys["classifier.output_labels"] = labels(config)
    return keys


def labels(config: Config) -> list[str]:
    """Names of classes; those that transformers makes up are none."""
    found = config.section("id2label")
    names = [str(found[key]) for key in sorted(found)]
    return [] if len(names) == 2 and names[0] == "LABEL_0" else names


def _pooling(config: Config) -> int | None:
    folder = config.path.parent
    try:
        raw = (folder / "modules.json").read_bytes()
        modules = read_json(raw[:MOST_BYTES])
    except (OSError, ValueError, RecursionError):
        return None
    steps = [step for step in modules if isinstance(step, dict)] if isinstance(modules, list) else []
    path = next((step.get("path") for step in steps if str(step.get("type")).endswith("Pooling")), None)
    if not isinstance(path, str) or "/" in path or path in ("", ".", ".."):
        return None
    found = read_json_file(folder / path / "config.json") or {}
    mode = next((mode for name, mode in OLDER.items() if found.get(name)), found.get("pooling_mode"))
    return _mode(config, mode)


def _mode(config: Config, mode: Any) -> int:
    if mode not in MODES:
        config.fail(f"pooling {str(mode)[:40]!r} is not known; known are {', '.join(MODES)}")
    return MODES[mode]
