"""Which pre-tokenizer a tokenizer.json has, by what it does: its cuts of a text that holds all that they treat
differently are compared with those of each that is known here.

Its own are made by the `tokenizers` package; nothing of the file is executed, it is data to that package.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.text.pretokenizer_names import PRETOKENIZERS
from powerinfer_cli.text.pretokenizers import pretokenizer

__all__ = ["recognised"]

# Letters of small and large ASCII, small ones elsewhere: large ones elsewhere are alike to llama.cpp. Digits in rows,
# contractions, punctuation before letters, paths, line ends, white space, marks, Han, kana, Hangul, Thai, symbols.
PROBE = (
    "Hello world, HelloWorld HTTPServer iPhone's I'VE don't we'll 'tis $x=y; a_b /usr/bin//x/ "
    "1 12 123 1234 12345 123456 1234567 3.14 1,000 x1y22z333 ١٢٣٤ "
    "a  b   c    d\te\n f\n\ng \n\n h\r\ni\r\n\r\n  j   \n   \n"
    "naïve café für straße привет мир λόγος नमस्ते दुनिया ไทยภาษา 中文字符测试 日本語テスト "
    "ひらがな 한국어 단어 (foo) [bar] {baz} "
    '<tag> </tag> ... !!! ?? -- == += -> :: ## @user #tag `code` "quote" «x» 100% €5 ✅🚀 a\u0301e\u0301 '
    "end.\n\n\n\tindent\n    four.  \"What?\" he's—she'd…  ,x .y ;z !a"
)
COMMON = (
    *("llama-bpe", "gpt-2", "qwen2", "smollm", "starcoder", "dbrx", "deepseek-v3", "gpt-4o", "tekken", "falcon"),
    *("deepseek-llm", "deepseek-coder", "kimi-k2", "qwen35", "bailingmoe", "command-r", "bloom"),
)
"""Names to prefer among those that cut alike."""
TOLERATED = 0.06  # of all cuts: nearer than that, only texts that hardly occur are cut otherwise
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FRONT, _ENDINGS = r"[^\r\n\p{L}\p{N}]?", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_SMALL, _LARGE = f"{_FRONT}{_UPPER}*{_LOWER}+", f"{_FRONT}{_UPPER}+{_LOWER}*"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ORIGINALS = {
    "tekken": rf"{_SMALL}|{_LARGE}|\p{{N}}|{_REST}",
    "gpt4o": rf"{_SMALL}{_ENDINGS}|{_LARGE}{_ENDINGS}|\p{{N}}{{1,3}}|{_REST}",
}
"""Families whose models keep marks with letters, which llama.cpp's patterns for them do not: a file that cuts like
these is meant by their names.
"""


def recognised(
    path: Path, fast: Mapping[str, Any], settings: Mapping[str, Any], preferred: Sequence[str]
) -> tuple[str, list[str]]:
    """llama.cpp's name, and notes where no known one cuts quite alike.

    Raises:
        PowerInferError: the file's pre-tokenizer is of an unknown form, or unlike any that is known.
    """
    cuts = _cuts_of_file(path, fast)
    off = {
        name: len(cuts ^ _cuts(PRETOKENIZERS[name][0], name))
        for name in PRETOKENIZERS
        if "raw" not in PRETOKENIZERS[name][1]
    }
    least = min(off.values())
    if least > TOLERATED * len(cuts):
        raise PowerInferError(
            f"{path}: cuts texts into words in a way that is not known here ({least} of {len(cuts)} cuts of a text of "
            "all kinds are at other places than those of the nearest known one)"
        )
    whole = fast["model"].get("ignore_merges") is True
    keeps = settings.get("clean_up_tokenization_spaces") is not True

    def rank(name: str) -> tuple[Any, ...]:
        """The best first."""
        kinds = PRETOKENIZERS[name][1]
        order = [*preferred, *COMMON]
        place = order.index(name) if name in order else len(order)
        return (
            ("ignore_merges" in kinds) != whole,
            name not in preferred,
            off[name],
            place,
            ("keep_spaces" in kinds) != keeps,
        )

    name = min((name for name, count in off.items() if count == least), key=rank)
    note = (
        f"{path.name}: {least} of {len(cuts)} cuts of a sample differ from those of {name}, the nearest that is known"
    )
    return name, [note] if least else []


def _cuts_of_file(path: Path, fast: Mapping[str, Any]) -> frozenset[int]:
    try:
        return _cuts_of(fast["pre_tokenizer"])
    except BaseException as error:  # a panic of the package's is none of Exception's kinds
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise PowerInferError(f"{path}: its pre_tokenizer cannot be understood: {str(error)[:120]}") from error


def _cuts_of(step: Any) -> frozenset[int]:
    """As the tokenizers package cuts."""
    from tokenizers import Tokenizer

    bare = {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": step}
    pre = Tokenizer.from_str(json.dumps(bare)).pre_tokenizer
    return frozenset(end for _, (_, end) in pre.pre_tokenize_str(PROBE))


@cache
def _cuts(family: str, name: str) -> frozenset[int]:
    """Of one that is known; those of a family are alike."""
    if family in ORIGINALS:
        pattern = {"Regex": ORIGINALS[family]}
        return _cuts_of({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    return frozenset(accumulate(map(len, pretokenizer(name).split(PROBE))))
