"""What templates can do, and whose they are, for texts in the shape of public ones."""

import pytest

from powerinfer_cli.rendering.cancelling import Cancellation, cancellation
from powerinfer_cli.rendering.limits import Limits
from powerinfer_cli.rendering.renderer import Renderer
from powerinfer_cli.serving.chat.capabilities import capabilities_of
from powerinfer_cli.serving.chat.prompt import Conversation, write_prompt
from powerinfer_cli.serving.chat.reasoning import is_open, tags_of
from powerinfer_cli.serving.chat.tool_styles import style_of
from powerinfer_cli.serving.chat.tools import Choice, ToolChoice, read_tools
from powerinfer_cli.text import ChatTemplate, TemplateError
from powerinfer_cli.text.template_forms import TemplateForms
from tests.serving.chat.fake_chat import USER, WEATHER, template

PARTS_ONLY = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
EACH = "{% for m in messages %}{{ m.content }}{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + EACH
NEEDS_TOOLS = "{% for tool in tools %}{{ tool.function.name }}{% endfor %}" + EACH
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('in turns') }}"
    "{% endif %}{{ m.content }}{% endfor %}"
)


@pytest.mark.parametrize("name", ["plain", "hermes", "llama3", "mistral", "thinking"])
def test_ordinary_templates(name: str) -> None:
    able = capabilities_of(template(name))
    assert able.forms == TemplateForms(no_tools=None, texts=True, parts=False, system=True)
    assert able.style.name == {"plain": "generic", "thinking": "hermes"}.get(name, name)
    assert able.calls == able.objects == able.parallel == (name != "plain")


def test_odd_templates() -> None:
    parts = capabilities_of(ChatTemplate(PARTS_ONLY, "test"))
    assert (parts.forms.texts, parts.forms.parts) == (False, True)
    assert not capabilities_of(ChatTemplate(NO_SYSTEM, "test")).forms.system
    needy = capabilities_of(ChatTemplate(NEEDS_TOOLS, "test"))
    assert (needy.forms.no_tools, needy.forms.texts) == ((), True)
    assert capabilities_of(ChatTemplate(ALTERNATING, "test")).forms.texts
    nothing = capabilities_of(template("refusing"))
    assert (nothing.forms.texts, nothing.style.name) == (True, "generic")


def test_messages_fit_the_template() -> None:
    def prompt(source: str, *messages: dict[str, object]) -> str:
        return write_prompt(ChatTemplate(source, "test"), Conversation(messages)).text

    system = {"role": "system", "content": "Be kind."}
    assert prompt(PARTS_ONLY, USER) == "Hello"
    assert prompt(NO_SYSTEM, system, USER) == "Be kind.\nHello"
    assert prompt(NO_SYSTEM, system) == "Be kind."
    assert prompt(NEEDS_TOOLS, USER) == "Hello"
    described = Conversation([USER], read_tools([WEATHER]), ToolChoice(Choice.REQUIRED))
    assert write_prompt(ChatTemplate(NEEDS_TOOLS, "test"), described).style is not None


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("<tool_call>\n{{ x }}\n</tool_call>", "hermes"),
        ("<|python_tag|>", "llama3"),
        ("<|start_header_id|>ipython<|end_header_id|>", "llama3"),
        ("[TOOL_CALLS][", "mistral"),
        ("[TOOL_CALLS]name[ARGS]", "mistral-named"),
        ("<function=name>{}</function>", "functionary-v3.1"),
        ("<|START_ACTION|>[", "command-r7b"),
        ("<tool_call><function=f><parameter=a>", "generic"),
        ("<tool_call>f<arg_key>a</arg_key>", "generic"),
        ("nothing", "generic"),
    ],
)
def test_styles(source: str, name: str) -> None:
    assert style_of(source).name == name


def test_tags() -> None:
    assert tags_of("{{ x }}").start == "<think>"
    tags = tags_of("[THINK]{{ x }}[/THINK]")
    assert (tags.start, tags.end) == ("[THINK]", "[/THINK]")
    assert is_open("<|assistant|>[THINK]", tags)
    assert not is_open("<|assistant|>[THINK][/THINK]", tags)
    assert not is_open("<|assistant|>", tags)


def test_a_template_that_meets_a_limit_is_not_asked_again() -> None:
    renderer = Renderer(Limits(cpu_ms=200))
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    able = capabilities_of(ChatTemplate(endless, "test", renderer=renderer))
    assert able.remark == "the chat template (test) failed: it takes longer than 0.2 s"
    assert able.forms.texts
    renderer.close()


def test_a_process_that_dies_says_nothing_of_a_template() -> None:
    renderer = Renderer(n_processes=1)
    mortal = ChatTemplate(EACH, "test", renderer=renderer)
    leaving = Cancellation()
    leaving.cancel()
    token = cancellation.set(leaving)
    with pytest.raises(TemplateError, match="nobody waits"):
        capabilities_of(mortal)
    cancellation.reset(token)
    assert capabilities_of(mortal).forms.system
    renderer.close()
