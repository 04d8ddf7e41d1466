"""Tokens with a meaning, whether some are put around a text, and the chat template."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from powerinfer_cli.convert.checkpoint import Checkpoint, read_json_file
from powerinfer_cli.convert.conversion import Vocabulary
from powerinfer_cli.convert.vocabulary.tokens import AddedToken, added_tokens
from powerinfer_cli.errors import PowerInferError

__all__ = ["special_keys"]

ROLES = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",  # so it is written in the format
    "pad": "padding",
    "cls": "cls",
    "mask": "mask",
    "eot": "eot",
    "eom": "eom",
}
ASKED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
MOST_TEMPLATE = 4 << 20  # bytes


def special_keys(
    checkpoint: Checkpoint,
    fast: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    keys: Mapping[str, Any],
    wishes: Vocabulary,
) -> dict[str, Any]:
    """keys: of the tokens. What tokenizer.json does beats what tokenizer_config.json says, and that config.json."""
    folder, tokens = checkpoint.folder, keys["tokenizer.ggml.tokens"]
    added = added_tokens(folder / "tokenizer.json", fast, settings)
    texts = {role: _text(settings.get(f"{role}_token")) for role in ASKED}
    put, first, last = _put_around(fast or {})
    texts["bos"] = texts["bos"] or texts["cls"] or first
    texts["eos"] = texts["eos"] or texts["sep"]
    if last and last != texts["eos"]:  # what ended texts so far ends turns
        texts["eot"], texts["eos"] = texts["eos"], last
    ids = _ids(texts, added) | {
        role: i for role, text in wishes.special.items() if (i := _id_of(text, added)) is not None
    }
    for role in ASKED:
        number = checkpoint.config.get(f"{role}_token_id")
        if role not in ids and isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(tokens):
            ids[role] = number
    for role in ASKED:
        flag = settings.get(f"add_{role}_token")
        if isinstance(flag, bool):
            put.setdefault(role, flag)
    found: dict[str, Any] = {f"tokenizer.ggml.{ROLES[role]}_token_id": number for role, number in ids.items()}
    found |= {f"tokenizer.ggml.add_{role}_token": flag for role, flag in put.items() if role in ("bos", "eos", "sep")}
    if isinstance(settings.get("add_prefix_space"), bool) and keys["tokenizer.ggml.model"] == "llama":
        found["tokenizer.ggml.add_space_prefix"] = settings["add_prefix_space"]
    return found | {"tokenizer.chat_template": _template(folder, settings)}


def _text(entry: Any) -> str | None:
    """A token, written as its text or as an object that has it."""
    content = entry.get("content") if isinstance(entry, dict) else entry
    return content if isinstance(content, str) and content else None


def _id_of(text: str, added: list[AddedToken]) -> int | None:
    return next((token.id for token in added if token.text == text), None)


def _ids(texts: Mapping[str, str | None], added: list[AddedToken]) -> dict[str, int]:
    pairs = ((role, _id_of(text, added)) for role, text in texts.items() if text)
    return {role: number for role, number in pairs if number is not None}


def _put_around(fast: Mapping[str, Any]) -> tuple[dict[str, bool], str | None, str | None]:
    """What tokenizer.json puts around a text: whether there is a first and a last token, and which they are."""
    processor = fast.get("post_processor")
    if not isinstance(processor, dict):
        return {}, None, None
    steps = processor.get("processors") if isinstance(processor.get("processors"), list) else [processor]
    put: dict[str, bool] = {}
    first = last = None
    for step in steps or []:
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "ByteLevel":
            put = {"bos": False, "eos": False} | put
        elif kind == "RobertaProcessing":
            put |= {"bos": True, "eos": True, "sep": True}
        elif kind == "TemplateProcessing":
            single = step.get("single")
            ends = (
                [_special(one) for one in (single[0], single[-1])]
                if isinstance(single, list) and len(single) > 1
                else []
            )
            first, last = ends or (None, None)
            put |= {role: True for role, text in (("bos", first), ("eos", last)) if text}
            put |= _between(step.get("pair"), last is not None)
    return put, first, last


def _between(pair: Any, ended: bool) -> dict[str, bool]:
    """Whether a token of its own parts two texts, besides what ends the first; {}: none does."""
    if not isinstance(pair, list):
        return {}
    texts = [i for i, piece in enumerate(pair) if isinstance(piece, dict) and "Sequence" in piece]
    count = texts[1] - texts[0] - 1 if len(texts) == 2 else 0
    return {"sep": count > 1 or not ended} if count else {}


def _special(piece: Any) -> str | None:
    token = piece.get("SpecialToken") if isinstance(piece, dict) else None
    return _text(token.get("id")) if isinstance(token, dict) else None


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Of tokenizer_config.json, where it has one; else of a file of its own. Of several, the default."""
    found = settings.get("chat_template")
    if found is None:
        found = _template_file(folder / "chat_template.jinja")
    if found is None:
        found = (read_json_file(folder / "chat_template.json") or {}).get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default", next(iter(named.values()), None))
    return found if isinstance(found, str) and found else None


def _template_file(path: Path) -> str | None:
    try:
        if path.stat().st_size > MOST_TEMPLATE:
            raise PowerInferError(f"{path}: has {path.stat().st_size} bytes, too many for a chat template")
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise PowerInferError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
