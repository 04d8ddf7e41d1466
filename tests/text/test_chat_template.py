"""Chat templates: built-in ones against llama.cpp's, foreign ones kept in bounds."""

import json
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import open_gguf, write_gguf
from powerinfer_cli.text import ChatTemplate, TemplateError, Tokenizer
from powerinfer_cli.text.builtin_templates import BUILTIN_TEMPLATES, TEMPLATE_HINTS
from tests.text.vocabularies import byte_level, sentencepiece

RECORD = json.loads((Path(__file__).parent / "data" / "llama_cpp_templates.json").read_text(encoding="utf-8"))
MESSAGES = [{"role": "user", "content": "hi"}]


def test_the_builtins_are_llama_cpps_and_one() -> None:
    assert set(BUILTIN_TEMPLATES) == set(RECORD["expected"]) | {"alpaca"}


@pytest.mark.parametrize("name", sorted(set(BUILTIN_TEMPLATES) - {"alpaca"}))
def test_builtins_write_what_llama_cpp_writes(name: str) -> None:
    template = ChatTemplate.named(name)
    for case, expected in RECORD["expected"][name].items():
        chat, asked = case.split("/")
        assert template.render(RECORD["chats"][chat], add_generation_prompt=asked == "1") == expected, case


def test_every_hint_names_a_builtin() -> None:
    assert {name for _, name in TEMPLATE_HINTS} <= set(BUILTIN_TEMPLATES)


def test_alpaca() -> None:
    template = ChatTemplate.named("alpaca")
    assert template.render(
        [{"role": "system", "content": "S"}, *MESSAGES, {"role": "assistant", "content": "yes"}]
    ) == ("S\n\n### Instruction:\nhi\n\n### Response:\nyes\n\n### Response:\n")
    assert template.render(MESSAGES).startswith("Below is an instruction")


def test_the_models_own_template_knows_its_tokens(tmp_path: Path) -> None:
    source = "{{ bos_token }}{% for m in messages %}\n{{ m.content }}{{ eos_token }}\n{% endfor %}\n{{ tools is none }}"
    path = tmp_path / "model.gguf"
    write_gguf(
        path, arch="llama", metadata=sentencepiece() | {"tokenizer.chat_template": source}, tensors=[], sparse=False
    )
    with open_gguf(path) as file:
        template = ChatTemplate.from_gguf(file)
    assert template.origin == "the model's own"
    # The BOS token is left to encoding, which adds it; blocks take their line with them.
    assert template.render(MESSAGES) == "hi</s>\nTrue"
    keeping = sentencepiece() | {"tokenizer.chat_template": source, "tokenizer.ggml.add_bos_token": False}
    assert ChatTemplate.from_gguf(keeping).render(MESSAGES) == "<s>hi</s>\nTrue"


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        (sentencepiece(), "built-in chatml (the model has no chat template, but its vocabulary has <|im_start|>)"),
        (
            {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<|im_start|>", "<|im_sep|>", "<|im_end|>"]},
            "built-in phi4 (the model has no chat template, but its vocabulary has <|im_sep|>)",
        ),
        (
            {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"]},
            "built-in alpaca (the model has no chat template)",
        ),
    ],
)
def test_without_a_template_the_vocabulary_decides(metadata: dict[str, Any], name: str) -> None:
    assert ChatTemplate.from_tokenizer(Tokenizer.from_metadata(metadata)).origin == name


def test_the_option_is_a_name_a_file_or_a_template(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}!", encoding="utf-8")
    assert ChatTemplate.from_option("chatml").render(MESSAGES) == ChatTemplate.named("chatml").render(MESSAGES)
    assert ChatTemplate.from_option(str(file)).render(MESSAGES) == "hi!"
    assert (
        ChatTemplate.from_option("{{ eos_token }}?", Tokenizer.from_metadata(byte_level("gpt-2"))).render([]) == "</s>?"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, b"", "neither a file nor a built-in; known are alpaca, "),
        ("large", b"a" * (1 << 20) + b"a", "larger than 1048576 bytes"),
        ("bad", b"abc\xff", "not UTF-8 at byte 3"),
        ("syntax", b"{% if %}", "line 1: Expected an expression"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, name: str | None, content: bytes, message: str) -> None:
    path = tmp_path / (name or "missing")
    if name:
        path.write_bytes(content)
    with pytest.raises(PowerInferError, match=message) as caught:
        ChatTemplate.from_option(str(path))
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(PowerInferError, match="no built-in chat template is called 'x'; known are alpaca"):
        ChatTemplate.named("x")


def test_what_templates_of_models_use() -> None:
    template = ChatTemplate(
        "{%- set ns = namespace(n=0) -%}{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{{ loop.index }}/{{ loop.length }}{{ '.' if loop.last else ',' }}{% endfor %}"
        "{{ ns.n }}{{ {'a': '<é>', 'b': [1, none]}|tojson }}{{ strftime_now('%Y')|length }}{{ enable_thinking }}"
        "{% generation %}G{% endgeneration %}{{ messages|map(attribute='role')|join('-') }}{{ '%d' % 1700000000 }}"
        "{{ messages[::-1][0].role }}{{ 'a b'.split()|length }}{{ ' x '.strip().upper() }}{{ '{}-{}'.format(1, 2) }}",
        "test",
    )
    messages = [{"role": "user", "content": ""}, {"role": "tool", "content": ""}, {"role": "assistant", "content": ""}]
    expected = '1/3,3/3.2{"a": "<é>", "b": [1, null]}4TrueGuser-tool-assistant1700000000assistant2X1-2'
    assert template.render(messages, enable_thinking=True) == expected


LIMIT = "(too much memory|longer than)"
HOSTILE = {
    "raise": ("{{ raise_exception('no\nway') }}", "no way"),
    "undefined": ("{{ foo.bar.baz }}", "'foo' is undefined"),
    "class": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "globals": ("{{ cycler.__init__.__globals__ }}", "unsafe"),
    "change": ("{{ messages.append(1) }}", "unsafe"),
    "include": ("{% include '/etc/passwd' %}", "no loader"),
    "range": ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
    "times": ("{{ 'a' * 10**10 }}", LIMIT),
    "list times": ("{{ 10**10 * [1] }}", LIMIT),
    "plus": (
        "{% set n = namespace(v='a') %}{% for i in range(60) %}{% set n.v = n.v + n.v %}{% endfor %}",
        LIMIT,
    ),
    "block": (
        "{% set n = namespace(v='a') %}{% for i in range(60) %}{% set x %}{{ n.v }}{{ n.v }}{% endset %}"
        "{% set n.v = x %}{% endfor %}",
        LIMIT,
    ),
    "ljust": ("{{ 'a'.ljust(10**10) }}", LIMIT),
    "center": ("{{ 'a'|center(10**10) }}", LIMIT),
    "indent": ("{{ 'a\nb'|indent(10**10) }}", LIMIT),
    "tojson": ("{{ [1]|tojson(indent=10**9) }}", LIMIT),
    "percent": ("{{ '%10000000000d' % 1 }}", LIMIT),
    "percent star": ("{{ '%*d' % (10**10, 1) }}", LIMIT),
    "format": ("{{ '{:10000000000}'.format(1) }}", LIMIT),
    "format width": ("{{ '{:{w}}'.format(1, w=10**10) }}", LIMIT),
    "replace": ("{{ ('a' * 100000).replace('a', 'b' * 100000) }}", LIMIT),
    "join": ("{{ range(100000)|join('a' * 100000) }}", LIMIT),
    "expandtabs": ("{{ 'a\t'.expandtabs(10**9) }}", LIMIT),
    "batch": ("{{ [1]|batch(10**9, 0)|list }}", LIMIT),
    "nesting": ("{{" + "(" * 3000 + "1" + ")" * 3000 + "}}", "calls itself without end"),
    "blocks": ("{% for i in x %}" * 30 + "{% endfor %}" * 30, "too many statically nested blocks"),
    "division": ("{{ 1 / 0 }}", "division by zero"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_in_one_line(name: str) -> None:
    """Soon, too: tests/rendering says how."""
    source, message = HOSTILE[name]
    with pytest.raises(TemplateError, match=r"^the chat template \(test\) failed: .*" + message) as caught:
        ChatTemplate(source, "test").render(MESSAGES)
    assert "\n" not in str(caught.value)


def test_limits_are_of_each_rendering_anew() -> None:
    template = ChatTemplate("{% for i in range(90000) %}{% endfor %}ok", "test")
    assert {template.render(MESSAGES) for _ in range(15)} == {"ok"}


def test_several_words_are_a_template() -> None:
    words = "This is not a template, it is"
    assert ChatTemplate.from_option(words).render([{"role": "user", "content": "Hello"}]) == words
    with pytest.raises(PowerInferError, match="neither a file"):
        ChatTemplate.from_option("my templates/chat.jinja")
