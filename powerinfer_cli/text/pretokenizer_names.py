"""Data: the patterns of llama.cpp's pre-tokenizers, and the names that `tokenizer.ggml.pre` gives them.

The patterns are those of the models' own tokenizers as llama.cpp adapted them (src/llama-vocab.cpp), where
\\p{...} of any letter category means any letter.
"""

__all__ = ["FAMILIES", "PRETOKENIZERS", "Family"]

Family = tuple[str, ...]
"""Stages in order: a pattern, or `<name>` of a function in `pretokenizers`."""

_CONTRACTION = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_NEWLINES_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
_PATHS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
_CAPITALS_SMALLS = r"[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])*(?:(?=\p{L})[^A-Z])+"
_CAPITALS = r"[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])+(?:(?=\p{L})[^A-Z])*"
_MARKED_CAPITALS_SMALLS = _CAPITALS_SMALLS.replace(r"(?=\p{L})", r"(?=[\p{L}\p{M}])")
_MARKED_CAPITALS = _CAPITALS.replace(r"(?=\p{L})", r"(?=[\p{L}\p{M}])")
_ANY_LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]*[\p{L}\p{M}]+"
_ANY_LETTERS_MORE = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+[\p{L}\p{M}]*"
_PUNCTUATED = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_HAN_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_HAN_HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_KOREAN_CHINESE = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|" + _HAN_KANA
)
_NO_PUNCTUATION = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_SIMPLE_LETTERS = (
    "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-"
    "\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943]"
)
_SIMPLE_PUNCTUATION = r"[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"

FAMILIES: dict[str, Family] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "gpt2": (_GPT2,),
    "llama3": (rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}{{1,3}}{_OTHERS}{_NEWLINES_SPACES}",),
    "qwen2": (rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}{_OTHERS}{_NEWLINES_SPACES}",),
    "qwen35": (
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*{_NEWLINES_SPACES}",
    ),
    "jais2": (
        rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}{{1,3}}{_OTHERS}|\s*[\r\n]+|\s{{512}}(?!\S)|\s{{256}}(?!\S)|\s{{128}}(?!\S)"
        r"|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
    ),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    "starcoder": (r"\p{N}", _GPT2),
    "deepseek_llm": (
        "[\r\n]",
        rf"\s?{_SIMPLE_LETTERS}+",
        rf"\s?{_SIMPLE_PUNCTUATION}",
        "<trailing spaces>",
        _HAN_HANGUL,
        r"\p{N}+",
    ),
    "deepseek_coder": ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_HANGUL, r"\p{N}"),
    "deepseek3": (r"\p{N}{1,3}", _HAN_KANA, rf"{_PUNCTUATED}| ?[\p{{P}}\p{{S}}]+[\r\n]*{_NEWLINES_SPACES}"),
    "spark": (
        r"\p{N}{1,3}",
        _HAN_KANA,
        rf"{_PUNCTUATED}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+",
        r"\p{N}",
    ),
    "youtu": (
        _KOREAN_CHINESE,
        rf"{_ANY_LETTERS}(?:{_CONTRACTION})?|{_ANY_LETTERS_MORE}(?:{_CONTRACTION})?|\p{{N}}{_PATHS}{_NEWLINES_SPACES}",
    ),
    "poro": (_NO_PUNCTUATION,),
    "viking": (_NO_PUNCTUATION, r"\p{N}"),
    "tekken": (rf"{_CAPITALS_SMALLS}|{_CAPITALS}|\p{{N}}{_PATHS}{_NEWLINES_SPACES}",),
    "chameleon": (
        "<sentinel:[0-9]+>",
        "IMGIMG[A-I]{1,4}Z",
        r"[\t\n]|    |  ",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
        _GPT2,
    ),
    "gpt4o": (
        rf"{_CAPITALS_SMALLS}(?:{_CONTRACTION})?|{_CAPITALS}(?:{_CONTRACTION})?|\p{{N}}{{1,3}}{_PATHS}{_NEWLINES_SPACES}",
    ),
    "granite_embedding": (
        rf"{_MARKED_CAPITALS_SMALLS}(?:{_CONTRACTION})?|{_MARKED_CAPITALS}(?:{_CONTRACTION})?"
        rf"|\p{{N}}{{1,3}}{_PATHS}{_NEWLINES_SPACES}",
    ),
    "kimi_k2": (
        rf"\p{{Han}}+|[^\r\n\p{{L}}\p{{N}}]?\p{{NotHan}}+(?:{_CONTRACTION})?|\p{{N}}{{1,3}}{_OTHERS}{_NEWLINES_SPACES}",
    ),
    "tiny_aya": (
        "<thousands>",
        rf"{_ANY_LETTERS}(?:{_CONTRACTION})?|{_ANY_LETTERS_MORE}(?:{_CONTRACTION})?|\p{{N}}{{1,3}}{_PATHS}{_NEWLINES_SPACES}",
    ),
    "superbpe": (r"\p{N}+", "<ascii thousands>"),
    "bailing": (rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_LETTERS}|\p{{N}}{_OTHERS}|\s*[\r\n]|\s+(?!\S)|\s+",),
    "seed_coder": (rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+{_NEWLINES_SPACES}",),
    "ufakzeka": (rf"{_LETTERS}|\p{{N}}{_OTHERS}{_NEWLINES_SPACES}",),
    "afmoe": ("<thousands>", _ASIAN, rf"{_PUNCTUATED}| ?[\p{{P}}\p{{S}}]+[\r\n]*{_NEWLINES_SPACES}"),
    "laguna": (r"[^\n]+|[\n]+", rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}{_OTHERS}{_NEWLINES_SPACES}"),
    "exaone_moe": (
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    "lines": (r"[^\n]+|[\n]+",),
    "minicpm5": (r"\p{N}{1,3}", rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}+{_OTHERS}{_NEWLINES_SPACES}"),
}

_KEEP = ("keep_spaces",)

_NAMES: list[tuple[str, str, tuple[str, ...]]] = [
    ("default", "default", ()),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        "llama3",
        ("ignore_merges", "bos"),
    ),
    ("gpt-2 phi-2 gigachat a.x-4.0 mellum modern-bert mpt olmo jais exaone4 roberta-bpe", "gpt2", ()),
    ("jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code", "gpt2", ()),
    ("trillion granite-docling", "gpt2", _KEEP),
    ("starcoder refact codeshell exaone minerva-7b mellum2", "starcoder", ()),
    ("command-r smollm", "starcoder", _KEEP),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 hunyuan grok-2 solar-open", "qwen2", _KEEP),
    ("stablelm2 megrez", "qwen2", ()),
    ("dbrx smaug-bpe", "llama3", ()),
    ("chatglm-bpe", "llama3", ("no_default_bos",)),
    ("glm4 glm5", "llama3", ("no_default_bos", "ignore_merges")),
    ("deepseek-v3 hunyuan-dense hy_v4 joyai-llm", "deepseek3", _KEEP),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", "gpt4o", _KEEP),
    ("tiny_aya cohere2moe", "tiny_aya", _KEEP),
    ("bailingmoe bailingmoe2 llada-moe", "bailing", _KEEP),
    ("gemma4 granite-embed-multi-311m", "lines", ("raw", "whole_newlines", "forced_bos")),
    ("sarvam-moe", "lines", ("raw", "keep_spaces")),
    ("deepseek-llm", "deepseek_llm", _KEEP),
    ("deepseek-coder", "deepseek_coder", _KEEP),
    ("spark2_5", "spark", _KEEP),
    ("youtu", "youtu", ("keep_spaces", "ignore_merges")),
    ("falcon", "falcon", ()),
    ("jais-2", "jais2", ()),
    ("qwen35", "qwen35", _KEEP),
    ("poro-chat", "poro", _KEEP),
    ("bloom gpt3-finnish", "poro", ()),
    ("viking", "viking", _KEEP),
    ("tekken", "tekken", ("keep_spaces", "ignore_merges", "bos")),
    ("exaone-moe", "exaone_moe", ()),
    ("chameleon", "chameleon", ("bos", "keep_spaces")),
    ("granite-embed-multi-97m", "granite_embedding", ("keep_spaces", "ignore_merges")),
    ("superbpe", "superbpe", _KEEP),
    ("kimi-k2", "kimi_k2", ("keep_spaces", "no_merges")),
    ("seed-coder", "seed_coder", _KEEP),
    ("ufakzeka", "ufakzeka", _KEEP),
    ("afmoe", "afmoe", _KEEP),
    ("laguna", "laguna", _KEEP),
    ("minicpm5", "minicpm5", ("ignore_merges",)),
]

PRETOKENIZERS: dict[str, tuple[str, tuple[str, ...]]] = {
    name: (family, settings) for names, family, settings in _NAMES for name in names.split()
}
"""name -> family, settings (see PreTokenizer; keep_spaces: no clean_spaces; raw: escaped spaces, no byte table)."""
