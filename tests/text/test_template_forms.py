"""Messages are put into the forms that a template takes, as llama.cpp puts them."""

import pytest

from powerinfer_cli.text import ChatTemplate
from powerinfer_cli.text.template_forms import TemplateForms, forms_of, write_chat

EACH = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
REFUSAL = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
GEMMA_2 = REFUSAL + EACH
DEAF = EACH.replace("messages", "messages|rejectattr('role', 'equalto', 'system')")
PARTS = EACH.replace("m.content", "m.content|map(attribute='text')|join")
NEEDS_TOOLS = "{{ tools|length }}" + EACH
THINKING = EACH + "{% if not enable_thinking %}<think></think>{% endif %}"
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("source", "forms", "prompt"),
    [
        (EACH, TemplateForms(), "[system]Be kind.[user]Hi>"),
        (GEMMA_2, TemplateForms(system=False), "[user]Be kind.\nHi>"),
        (DEAF, TemplateForms(system=False), "[user]Be kind.\nHi>"),
        (PARTS, TemplateForms(texts=False, parts=True), "[system]Be kind.[user]Hi>"),
        (f"{REFUSAL}{PARTS}", TemplateForms(texts=False, parts=True, system=False), "[user]Be kind.\nHi>"),
        (NEEDS_TOOLS, TemplateForms(no_tools=()), "0[system]Be kind.[user]Hi>"),
        (THINKING, TemplateForms(), "[system]Be kind.[user]Hi>"),
    ],
    ids=["plain", "gemma-2", "deaf", "parts", "parts, no system", "needs-tools", "thinking"],
)
def test_chats_are_written_for_every_kind_of_template(source: str, forms: TemplateForms, prompt: str) -> None:
    template = ChatTemplate(source, "test")
    assert forms_of(template) == forms
    assert write_chat(template, CHAT) == prompt


def test_a_system_message_alone_is_the_users() -> None:
    assert write_chat(ChatTemplate(GEMMA_2, "test"), CHAT[:1]) == "[user]Be kind.>"


def test_variables_go_before_the_usual_ones() -> None:
    assert write_chat(ChatTemplate(THINKING, "test"), CHAT, enable_thinking=False).endswith(">")
