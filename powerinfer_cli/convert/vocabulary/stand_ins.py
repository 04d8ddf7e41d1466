"""What other files say where tokenizer.json is missing, in its form: vocab.json with merges.txt, tiktoken's ranks,
tekken.json. How the first two cut texts into words is in nobody's file; it is known by the model's kind.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerinfer_cli.convert.checkpoint import Checkpoint, read_json_file
from powerinfer_cli.convert.vocabulary.ranks import (
    TEKKEN,
    is_tiktoken,
    merges_of,
    read_tekken,
    read_tiktoken,
    visible,
)
from powerinfer_cli.convert.vocabulary.sentencepiece import MODEL
from powerinfer_cli.convert.vocabulary.tokens import MOST_TOKENS, AddedToken, added_tokens
from powerinfer_cli.errors import PowerInferError

__all__ = ["StandIn", "stand_in"]

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")
PATTERNS = {"qwen": QWEN, "llama": LLAMA3, "glm": LLAMA3, "chatglm": LLAMA3}
"""By the first letters of `model_type`."""
SLOW = ("GPT2", "Qwen2", "CodeGen")
"""Classes of tokenizers with vocab.json, but for their ending; where none is named, by the model's kind."""
ENDS = {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
"""As transformers has them where tokenizer_config.json does not say; GPT-2's text begins with it as well."""
LLAMA3_SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>"),
    *("<|eot_id|>", "<|python_tag|>"),
    *(f"<|reserved_special_token_{i}|>" for i in range(2, 247)),
)
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))


@dataclass(frozen=True)
class StandIn:
    """fast: as tokenizer.json. settings: as tokenizer_config.json, with what the model's kind is known to have. path:
    the file to name in errors.
    """

    path: Path
    fast: dict[str, Any]
    settings: dict[str, Any]


def stand_in(checkpoint: Checkpoint, settings: dict[str, Any]) -> StandIn | None:
    """None: none of these files is there. Raises PowerInferError: one is damaged, or of a model of an unknown kind."""
    folder = checkpoint.folder
    tekken = read_tekken(folder)
    if tekken is not None:
        ranks, special, pattern = tekken
        known = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        flags = {"add_bos_token": True, "add_eos_token": False}
        added = [AddedToken(i, text, True) for i, text in enumerate(special)]
        return _of_ranks(folder / TEKKEN, ranks, added, pattern, len(special), {**known, **flags, **settings})
    paths = [*sorted(folder.glob("*.tiktoken")), folder / "tiktoken.model", folder / MODEL]
    path = next((path for path in paths if is_tiktoken(path)), None)
    if path is not None:
        return _tiktoken(checkpoint, path, settings)
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return _vocabulary_and_merges(checkpoint, settings)
    return None


def _of_ranks(
    path: Path,
    ranks: dict[bytes, int],
    added: list[AddedToken],
    pattern: str,
    shift: int,
    settings: dict[str, Any],
) -> StandIn:
    vocab = {visible(token): rank + shift for token, rank in ranks.items()}
    model = {"type": "BPE", "vocab": vocab, "merges": merges_of(ranks), "ignore_merges": pattern != QWEN}
    return StandIn(path, _fast(model, _words(pattern), added), settings)


def _fast(model: dict[str, Any], pre: dict[str, Any], added: list[AddedToken]) -> dict[str, Any]:
    entries = [{"id": token.id, "content": token.text, "special": token.special} for token in added]
    return {"model": model, "pre_tokenizer": pre, "added_tokens": entries}


def _words(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, BYTES]}


def _kind(checkpoint: Checkpoint) -> str | None:
    """Which of `PATTERNS` fits the model."""
    told = str(checkpoint.config.get("model_type"))
    return next((kind for kind in PATTERNS if told.startswith(kind)), None)


def _tiktoken(checkpoint: Checkpoint, path: Path, settings: dict[str, Any]) -> StandIn:
    """Special tokens are those that tokenizer_config.json lists, or as the model's first code counted them."""
    kind = "qwen" if path.name == "qwen.tiktoken" else _kind(checkpoint)
    if kind is None:
        told = str(checkpoint.config.get("model_type"))[:40]
        raise PowerInferError(
            f"{path}: tiktoken's files do not say how words are cut, which is known here of {', '.join(PATTERNS)} "
            f"models, not of {told!r}: save the tokenizer as tokenizer.json"
        )
    ranks = read_tiktoken(path)
    known = {"qwen": QWEN_SPECIAL, "llama": LLAMA3_SPECIAL}.get(kind, ())
    first = max(ranks.values()) + 1
    added = added_tokens(path, None, settings) or [AddedToken(first + i, text, True) for i, text in enumerate(known)]
    if kind == "llama":
        ends = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "add_bos_token": True}
    else:
        ends = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"} if kind == "qwen" else {}
    return _of_ranks(path, ranks, added, PATTERNS[kind], 0, {**ends, **settings})


def _vocabulary_and_merges(checkpoint: Checkpoint, settings: dict[str, Any]) -> StandIn:
    folder = checkpoint.folder
    path = folder / "vocab.json"
    told = str(settings.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    if told and told not in SLOW:
        raise PowerInferError(
            f"{path}: a {told[:40]}Tokenizer's words are not known here, only those of {', '.join(SLOW)}: save it as "
            "tokenizer.json, as transformers' AutoTokenizer does"
        )
    vocab = read_json_file(path) or {}
    older = read_json_file(folder / "added_tokens.json") or {}
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < MOST_TOKENS for i in older.values()):
        raise PowerInferError(f"{folder / 'added_tokens.json'}: has numbers that are none, or too large")
    qwen = told == "Qwen2" or (not told and _kind(checkpoint) == "qwen")
    roles = {**ENDS, **({} if qwen else {"bos_token": ENDS["eos_token"]})}
    roles |= (read_json_file(folder / "special_tokens_map.json") or {}) | settings
    numbers = {**vocab, **older}
    listed = {token.text: token for token in added_tokens(path, None, settings)}
    added = {text: AddedToken(number, text, False) for text, number in older.items()} | listed
    for role, told_of in roles.items():
        text = told_of.get("content") if isinstance(told_of, dict) else told_of
        if role.endswith("_token") and isinstance(text, str) and text in numbers and text not in listed:
            added[text] = AddedToken(numbers[text], text, True)
    pre = _words(QWEN) if qwen else {**BYTES, "use_regex": True}
    model = {"type": "BPE", "vocab": vocab, "merges": _merges(folder / "merges.txt")}
    return StandIn(path, _fast(model, pre, list(added.values())), roles)


def _merges(path: Path) -> list[str]:
    """Lines but for the first, which tells the version."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PowerInferError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    rest = lines[1:] if lines[0].startswith("#version") else lines
    return [line.rstrip("\r") for line in rest if line.strip()]
