"""Tokens with a meaning: begin, end, end of turn, fill-in-the-middle; which of them end a generation.

llama.cpp reads them from the metadata, and finds what is missing there by the tokens' texts; the lists of texts below
are its own. Where several texts of a list are in one vocabulary, llama.cpp takes whichever its hash table yields
first, and we the first of the list. That cannot change `eog_ids` for end-of-turn texts, which all end a generation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from powerinfer_cli.gguf_io import Strings

from .metadata import Metadata, flag, token_id
from .vocabulary import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary

__all__ = ["FillTokens", "SpecialTokens", "read_special_tokens"]

_EOT_TEXTS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
)
_TEXTS = {
    "eot": _EOT_TEXTS,
    "eom": ("<|eom_id|>",),
    "fim_pre": (
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"),
        *("<|code_prefix|>", "<|prefix|>"),
    ),
    "fim_suf": (
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"),
        *("<|code_suffix|>", "<|suffix|>"),
    ),
    "fim_mid": (
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"),
        *("<|code_middle|>", "<|middle|>"),
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
_EOG_TEXTS = (
    *_EOT_TEXTS,
    *("<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "</s>", "<|eom_id|>", "[EOS]", "<eos>", "<turn|>"),
    *("<|tool_response>", "[e~["),
)
_SEPARATED = ("jina-v1-en", "jina-v2-code", "roberta-bpe")  # pre-tokenizers of vocabularies that part texts by SEP
_ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
_DEFAULTS = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"bos": 101, "unk": 100, "sep": 102, "pad": 0},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
}
_KEYS = {
    "bos": ["cls", "bos"],
    "eos": ["eos"],
    "eot": ["eot"],
    "eom": ["eom"],
    "unk": ["unknown"],
    "pad": ["padding"],
    "sep": ["seperator"],
    "fim_pre": ["fim_pre", "prefix"],
    "fim_suf": ["fim_suf", "suffix"],
    "fim_mid": ["fim_mid", "middle"],
    "fim_pad": ["fim_pad"],
    "fim_rep": ["fim_rep"],
    "fim_sep": ["fim_sep"],
}
"""Role -> the metadata keys `tokenizer.ggml.X_token_id` that name it; the last one that is there counts."""


@dataclass(frozen=True)
class FillTokens:
    """Ids that mark the parts of a text with a gap; None for those a vocabulary lacks. repository, file: names of."""

    prefix: int | None
    suffix: int | None
    middle: int | None
    repository: int | None
    file: int | None


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens with a meaning, None for those a vocabulary lacks."""

    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    unk_id: int | None
    pad_id: int | None
    sep_id: int | None
    fill: FillTokens
    eog_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    add_sep: bool
    kinds: bytes  # the vocabulary's, with those corrected that llama.cpp corrects
    partition: tuple[int, ...]  # tokens that are cut out of a text first, longest text first
    lstrip: frozenset[int]  # tokens that swallow the white space before them
    rstrip: frozenset[int]  # and after them
    notes: tuple[str, ...]


def read_special_tokens(metadata: Metadata, vocabulary: Vocabulary) -> SpecialTokens:
    """Find the special tokens of `vocabulary`. An id out of range is noted and its default taken, as llama.cpp does."""
    notes: list[str] = []
    roles = _roles_from_metadata(metadata, vocabulary, notes)
    kinds = bytearray(vocabulary.kinds)
    for role, texts in _TEXTS.items():
        found = next((vocabulary.ids[text] for text in texts if text in vocabulary.ids), None)
        if roles.get(role) is None and found is not None:
            roles[role] = found
            kinds[found] |= CONTROL
    eog_ids = _eog_ids(vocabulary, roles, kinds)
    partition = _partition_order(vocabulary.tokens, kinds)
    lstrip, rstrip = _stripping(vocabulary, partition)
    add_bos, add_eos = _added(metadata, vocabulary, roles, notes)
    return SpecialTokens(
        bos_id=roles["bos"],
        eos_id=roles["eos"],
        eot_id=roles["eot"],
        unk_id=roles["unk"],
        pad_id=roles["pad"],
        sep_id=roles["sep"],
        fill=FillTokens(*(roles.get(role) for role in ("fim_pre", "fim_suf", "fim_mid", "fim_rep", "fim_sep"))),
        eog_ids=eog_ids,
        add_bos=add_bos,
        add_eos=add_eos,
        add_sep=_adds_sep(metadata, vocabulary, roles),
        kinds=bytes(kinds),
        partition=partition,
        lstrip=lstrip,
        rstrip=rstrip,
        notes=tuple(notes),
    )


def _roles_from_metadata(metadata: Metadata, vocabulary: Vocabulary, notes: list[str]) -> dict[str, int | None]:
    defaults: dict[str, int] = {}
    if vocabulary.model in _DEFAULTS:
        defaults = _DEFAULTS[vocabulary.model]
    elif vocabulary.model == "gpt2" and vocabulary.pre is not None:
        defaults = {"bos": 11, "eos": 11} if vocabulary.pre.default_bos else {"eos": 11}
    count = len(vocabulary.tokens)
    roles: dict[str, int | None] = {}
    for role, names in _KEYS.items():
        default = defaults.get(role)
        roles[role] = default if default is not None and default < count else None
        for name in names:
            key = f"tokenizer.ggml.{name}_token_id"
            found = token_id(metadata, key)
            if found is None:
                continue
            if 0 <= found < count:
                roles[role] = found
            else:
                notes.append(f"{key} is {found}, which is not in the vocabulary of {count} tokens: ignored")
    return roles


def _added(
    metadata: Metadata, vocabulary: Vocabulary, roles: Mapping[str, int | None], notes: list[str]
) -> tuple[bool, bool]:
    """(add_bos, add_eos)"""
    pre, wordpiece = vocabulary.pre, vocabulary.model == "bert"
    usual = vocabulary.model in ("llama", "bert") if pre is None else pre.add_bos
    add_bos = wordpiece or flag(metadata, "tokenizer.ggml.add_bos_token", usual)
    add_eos = flag(metadata, "tokenizer.ggml.add_eos_token", vocabulary.model == "t5")
    add_bos = add_bos or (pre is not None and pre.forced_bos)
    if add_bos and roles["bos"] is None:
        notes.append("the metadata asks for a BOS token before each text, but the vocabulary has none: left out")
        add_bos = False
    if add_eos and roles["eos"] is None:
        notes.append("the metadata asks for an EOS token after each text, but the vocabulary has none: left out")
        add_eos = False
    return add_bos, add_eos


def _adds_sep(metadata: Metadata, vocabulary: Vocabulary, roles: Mapping[str, int | None]) -> bool:
    """Between two texts."""
    usual = vocabulary.model == "bert" or vocabulary.pre_name in _SEPARATED
    return flag(metadata, "tokenizer.ggml.add_sep_token", usual) and roles["sep"] is not None


def _eog_ids(vocabulary: Vocabulary, roles: Mapping[str, int | None], kinds: bytearray) -> frozenset[int]:
    """End-of-generation tokens; corrects `kinds` on the way."""
    ids = vocabulary.ids
    by_text = {ids[text] for text in _EOG_TEXTS if text in ids}
    for found in by_text:
        kinds[found] |= CONTROL
    for text in _ALWAYS_SHOWN:
        if text in ids:
            kinds[ids[text]] = USER_DEFINED
    by_role = {roles[role] for role in ("fim_pad", "fim_rep", "fim_sep", "eos", "eot", "eom")} - {None}
    eog = {found for found in by_text | by_role if found is not None}
    texts = {vocabulary.tokens[found] for found in eog}
    # Vocabularies in which <|end|> closes a part of an answer, not the answer.
    called = bool(texts & {"<|call|>", "<|calls|>"})
    if "<|end|>" in texts and called and texts & {"<|return|>", "<|flush|>"}:
        eog.remove(ids["<|end|>"])
        kinds[ids["<|end|>"]] = USER_DEFINED
    # Vocabularies in which </s> is an HTML tag.
    if "</s>" in texts and texts & {"<|tool_response>", "<|plamo:eos|>"}:
        eog.remove(ids["</s>"])
        kinds[ids["</s>"]] = NORMAL
    return frozenset(eog)


def _partition_order(tokens: Strings, kinds: bytes | bytearray) -> tuple[int, ...]:
    special = np.flatnonzero(np.frombuffer(kinds, np.uint8) & (CONTROL | USER_DEFINED | UNKNOWN))
    lengths = (tokens.ends - tokens.starts)[special]
    return tuple(special[np.argsort(-lengths, kind="stable")].tolist())


def _stripping(vocabulary: Vocabulary, partition: Sequence[int]) -> tuple[frozenset[int], frozenset[int]]:
    """(lstrip, rstrip). GGUF does not carry these attributes; llama.cpp knows the models that need them by name."""
    ids = vocabulary.ids
    name = vocabulary.name.lower()
    if any(pre in vocabulary.pre_name for pre in ("jina-v2-de", "jina-v2-es", "jina-v2-code")):
        return frozenset({ids["<mask>"]} if "<mask>" in ids else ()), frozenset()
    if "phi-3" in name or "phi3" in name:
        kept = {ids[text] for text in ("<unk>", "<s>", "<|endoftext|>") if text in ids}
        extra = {ids["</s>"]} if "</s>" in ids else set()
        return frozenset(), frozenset((set(partition) | extra) - kept)
    if "modern-bert" in name:
        return frozenset({ids["[MASK]"]} if "[MASK]" in ids else ()), frozenset()
    return frozenset(), frozenset()
