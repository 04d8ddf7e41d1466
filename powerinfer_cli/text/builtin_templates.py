"""Data: chat templates by llama.cpp's names, as Jinja, for models that bring none.

Each writes what llama.cpp's built-in of that name writes; `alpaca` is ours. As there, none but gigachat's and
hunyuan-vl's begins with a BOS token, which encoding adds where the model wants it. `m` is a message, `m.role` one of
system, user and assistant.
"""

__all__ = ["BUILTIN_TEMPLATES", "TEMPLATE_HINTS"]


def _each(body: str, prompt: str = "", before: str = "") -> str:
    """`body` for each message `m`, then `prompt` where an answer is wanted."""
    asked = f"{{% if add_generation_prompt %}}{prompt}{{% endif %}}" if prompt else ""
    return f"{before}{{% for m in messages %}}{body}{{% endfor %}}{asked}"


def _roles(system: str, user: str, assistant: str, prompt: str = "", before: str = "") -> str:
    """One body for each role."""
    body = (
        f"{{% if m.role == 'system' %}}{system}{{% elif m.role == 'user' %}}{user}"
        f"{{% elif m.role == 'assistant' %}}{assistant}{{% endif %}}"
    )
    return _each(body, prompt, before)


def _llama2(system: str, again: str = "[INST] ", content: str = "m.content") -> str:
    body = (
        r"{% if not turn.open %}{% set turn.open = true %}" + again + r"{% endif %}"
        r"{% if m.role == 'system' %}" + system + r"{% elif m.role == 'user' %}{{ " + content + r" + ' [/INST]' }}"
        r"{% else %}{% set turn.open = false %}{{ " + content + r" + '</s>' }}{% endif %}"
    )
    return _each(body, before="{% set turn = namespace(open=true) %}[INST] ")


def _mistral(lead: str, trail: str, answer: str) -> str:
    body = (
        r"{% if not turn.open %}{% set turn.open = true %}{{ '" + lead + "[INST]" + trail + r"' }}{% endif %}"
        r"{% if m.role == 'system' %}{{ m.content + '\n\n' }}"
        r"{% elif m.role == 'user' %}{{ m.content + '" + lead + r"[/INST]' }}"
        r"{% else %}{% set turn.open = false %}{{ '" + trail + r"' + " + answer + r" + '</s>' }}{% endif %}"
    )
    return _each(body, before="{% set turn = namespace(open=false) %}")


def _mistral_v7(trail: str) -> str:
    return _each(
        r"{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]" + trail + r"' + m.content + '[/SYSTEM_PROMPT]' }}"
        r"{% elif m.role == 'user' %}{{ '[INST]" + trail + r"' + m.content + '[/INST]' }}"
        r"{% else %}{{ '" + trail + r"' + m.content + '</s>' }}{% endif %}"
    )


_LLAMA2_SYSTEM = r"{{ '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' }}"
_EXAONE_TURN = r"{{ '[|' + m.role + '|]' + m.content|trim + ('\n' if m.role == 'user' else '[|endofturn|]\n') }}"
_EXAONE_MOE_TURN = r"{{ '<|' + m.role + '|>\n' + m.content|trim + '<|endofturn|>\n' }}"
_GRANITE_TURN = r"{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}"
_BAILING_ROLE = r"{{ '<role>' + ('HUMAN' if m.role == 'user' else m.role|upper) + '</role>' + m.content }}"

BUILTIN_TEMPLATES: dict[str, str] = {
    "alpaca": _roles(
        r"{{ m.content + '\n\n' }}",
        r"{{ '### Instruction:\n' + m.content + '\n\n' }}",
        r"{{ '### Response:\n' + m.content + '\n\n' }}",
        r"{{ '### Response:\n' }}",
        r"{% if messages and messages[0].role != 'system' %}{{ 'Below is an instruction that describes a task. "
        r"Write a response that appropriately completes the request.\n\n' }}{% endif %}",
    ),
    "chatml": _each(
        r"{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}", r"{{ '<|im_start|>assistant\n' }}"
    ),
    "llama2": _llama2(r"{{ m.content + '\n' }}"),
    "llama2-sys": _llama2(_LLAMA2_SYSTEM),
    "llama2-sys-bos": _llama2(_LLAMA2_SYSTEM, again="<s>[INST] "),
    "llama2-sys-strip": _llama2(_LLAMA2_SYSTEM.replace("m.content", "m.content|trim"), content="m.content|trim"),
    "llama3": _each(
        r"{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content|trim + '<|eot_id|>' }}",
        r"{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
    ),
    "llama4": _each(
        r"{{ '<|header_start|>' + m.role + '<|header_end|>\n\n' + m.content|trim + '<|eot|>' }}",
        r"{{ '<|header_start|>assistant<|header_end|>\n\n' }}",
    ),
    "mistral-v1": _mistral(" ", " ", "m.content"),
    "mistral-v3": _mistral("", " ", "m.content|trim"),
    "mistral-v3-tekken": _mistral("", "", "m.content"),
    "mistral-v7": _mistral_v7(" "),
    "mistral-v7-tekken": _mistral_v7(""),
    "phi3": _each(r"{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}", r"{{ '<|assistant|>\n' }}"),
    "phi4": _each(
        r"{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}", "<|im_start|>assistant<|im_sep|>"
    ),
    "falcon3": _each(r"{{ '<|' + m.role + '|>\n' + m.content + '\n' }}", r"{{ '<|assistant|>\n' }}"),
    "zephyr": _each(r"{{ '<|' + m.role + '|>\n' + m.content + '<|endoftext|>\n' }}", r"{{ '<|assistant|>\n' }}"),
    "monarch": _each(
        r"{{ ('' if loop.first else '<s>') + m.role + '\n' + m.content + '</s>\n' }}", r"{{ '<s>assistant\n' }}"
    ),
    "gemma": _each(
        r"{% if m.role == 'system' %}{% set held.text = held.text + m.content|trim %}{% else %}"
        r"{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        r"{% if held.text and m.role != 'assistant' %}{{ held.text + '\n\n' }}{% set held.text = '' %}{% endif %}"
        r"{{ m.content|trim + '<end_of_turn>\n' }}{% endif %}",
        r"{{ '<start_of_turn>model\n' }}",
        r"{% set held = namespace(text='') %}",
    ),
    "orion": _roles(
        r"{% set held.text = held.text + m.content %}",
        r"{{ 'Human: ' }}{% if held.text %}{{ held.text + '\n\n' }}{% set held.text = '' %}{% endif %}"
        r"{{ m.content + '\n\nAssistant: </s>' }}",
        r"{{ m.content + '</s>' }}",
        before=r"{% set held = namespace(text='') %}",
    ),
    "openchat": _each(
        r"{% if m.role != 'system' %}{{ 'GPT4 Correct ' + m.role|capitalize + ': ' }}{% endif %}"
        r"{{ m.content + '<|end_of_turn|>' }}",
        "GPT4 Correct Assistant:",
    ),
    "vicuna": _roles(
        r"{{ m.content + '\n\n' }}",
        r"{{ 'USER: ' + m.content + '\n' }}",
        r"{{ 'ASSISTANT: ' + m.content + '</s>\n' }}",
        "ASSISTANT:",
    ),
    "vicuna-orca": _roles(
        r"{{ 'SYSTEM: ' + m.content + '\n' }}",
        r"{{ 'USER: ' + m.content + '\n' }}",
        r"{{ 'ASSISTANT: ' + m.content + '</s>\n' }}",
        "ASSISTANT:",
    ),
    "deepseek": _roles(
        r"{{ m.content }}",
        r"{{ '### Instruction:\n' + m.content + '\n' }}",
        r"{{ '### Response:\n' + m.content + '\n<|EOT|>\n' }}",
        r"{{ '### Response:\n' }}",
    ),
    "deepseek2": _roles(
        r"{{ m.content + '\n\n' }}",
        r"{{ 'User: ' + m.content + '\n\n' }}",
        r"{{ 'Assistant: ' + m.content + '<｜end▁of▁sentence｜>' }}",
        "Assistant:",
    ),
    "deepseek-ocr": _each("{{ m.content }}"),
    "deepseek3": _roles(
        r"{{ m.content + '\n\n' }}",
        r"{{ '<｜User｜>' + m.content }}",
        r"{{ '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' }}",
        "<｜Assistant｜>",
    ),
    "command-r": _roles(
        r"{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + m.content|trim + '<|END_OF_TURN_TOKEN|>' }}",
        r"{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m.content|trim + '<|END_OF_TURN_TOKEN|>' }}",
        r"{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + m.content|trim + '<|END_OF_TURN_TOKEN|>' }}",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    "chatglm3": _each(r"{{ '<|' + m.role + '|>\n ' + m.content }}", "<|assistant|>", "[gMASK]sop"),
    "chatglm4": _each(r"{{ '<|' + m.role + '|>\n' + m.content }}", r"{{ '<|assistant|>\n' }}", "[gMASK]<sop>"),
    "glmedge": _each(r"{{ '<|' + m.role + '|>\n' + m.content }}", "<|assistant|>"),
    "minicpm": _each(
        r"{% if m.role == 'user' %}{{ '<用户>' + m.content|trim + '<AI>' }}{% else %}{{ m.content|trim }}{% endif %}"
    ),
    "exaone3": _each(_EXAONE_TURN, "[|assistant|]"),
    "exaone4": _each(_EXAONE_TURN, "[|assistant|]"),
    "exaone-moe": _each(_EXAONE_MOE_TURN, r"{{ '<|assistant|>\n' }}"),
    "rwkv-world": _roles(
        r"{{ 'System: ' + m.content|trim + '\n\n' }}",
        r"{{ 'User: ' + m.content|trim + '\n\n' + ('Assistant:' if loop.last else '') }}",
        r"{{ 'Assistant: ' + m.content|trim + '\n\n' }}",
    ),
    "granite": _each(_GRANITE_TURN, "<|start_of_role|>assistant<|end_of_role|>"),
    "granite-4.0": _each(_GRANITE_TURN, "<|start_of_role|>assistant<|end_of_role|>"),
    "granite-4.1": _each(_GRANITE_TURN, "<|start_of_role|>assistant<|end_of_role|>"),
    "gigachat": _each(
        r"{% if m.role == 'system' and loop.first %}{{ m.content + '<|message_sep|>' }}{% elif m.role == 'user' %}"
        r"{{ 'user<|role_sep|>' + m.content + '<|message_sep|>available functions<|role_sep|>[]<|message_sep|>' }}"
        r"{% elif m.role == 'assistant' %}{{ 'assistant<|role_sep|>' + m.content + '<|message_sep|>' }}{% endif %}",
        "assistant<|role_sep|>",
        "<s>",
    ),
    "megrez": _each(
        r"{{ '<|role_start|>' + m.role + '<|role_end|>' + m.content + '<|turn_end|>' }}",
        "<|role_start|>assistant<|role_end|>",
    ),
    "bailing": _each(_BAILING_ROLE, "<role>ASSISTANT</role>"),
    "bailing-think": _each(_BAILING_ROLE, "<role>ASSISTANT</role><think>"),
    "bailing2": _each(
        _BAILING_ROLE + "<|role_end|>",
        "<role>ASSISTANT</role>",
        r"{% if not messages or messages[0].role != 'system' %}"
        r"<role>SYSTEM</role>detailed thinking off<|role_end|>{% endif %}",
    ),
    "smolvlm": _each(
        r"{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% else %}"
        r"{{ ('User: ' if m.role == 'user' else 'Assistant: ') + m.content + '<end_of_utterance>\n' }}{% endif %}",
        "Assistant:",
        "<|im_start|>",
    ),
    "hunyuan-moe": _roles(
        r"{{ '<|startoftext|>' + m.content + '<|extra_4|>' }}",
        r"{{ '<|startoftext|>' + m.content + '<|extra_0|>' }}",
        r"{{ m.content + '<|eos|>' }}",
    ),
    "hunyuan-dense": _roles(
        r"{% if loop.first %}{{ m.content + '<｜hy_place▁holder▁no▁3｜>' }}{% endif %}",
        r"{{ '<｜hy_User｜>' + m.content + '<｜hy_Assistant｜>' }}",
        r"{{ '<｜hy_Assistant｜>' + m.content + '<｜hy_place▁holder▁no▁2｜>' }}",
    ),
    "hunyuan-vl": _roles(
        r"{% if loop.first %}{{ m.content + '<｜hy_place▁holder▁no▁3｜>' }}{% endif %}",
        r"{{ m.content + '<｜hy_User｜>' }}",
        r"{{ m.content + '<｜hy_Assistant｜>' }}",
        before="<｜hy_begin▁of▁sentence｜>",
    ),
    "gpt-oss": _each(
        r"{{ '<|start|>' + m.role + '<|message|>' + m.content }}"
        r"{{ '<|return|>' if m.role == 'assistant' else '<|end|>' }}",
        "<|start|>assistant",
    ),
    "kimi-k2": _each(
        r"{{ '<|im_' + m.role + '|>' + m.role + '<|im_middle|>' + m.content + '<|im_end|>' }}",
        "<|im_assistant|>assistant<|im_middle|>",
    ),
    "seed_oss": _each(
        r"{{ '<seed:bos>' + m.role + '\n' + (m.content|trim if m.role == 'assistant' else m.content) + '<seed:eos>' }}",
        r"{{ '<seed:bos>assistant\n' }}",
    ),
    "grok-2": _roles(
        r"{{ 'System: ' + m.content|trim + '<|separator|>\n\n' }}",
        r"{{ 'Human: ' + m.content|trim + '<|separator|>\n\n' }}",
        r"{{ 'Assistant: ' + m.content + '<|separator|>\n\n' }}",
        "Assistant:",
    ),
    "pangu-embedded": _each(
        r"{% if loop.first and m.role != 'system' %}[unused9]系统：[unused10]{% endif %}"
        r"{% if m.role in names %}[unused9]{{ names[m.role] + '：' + m.content }}[unused10]{% endif %}",
        "[unused9]助手：",
        r"{% set names = {'system': '系统', 'user': '用户', 'assistant': '助手', "
        r"'tool': '工具', 'function': '方法'} %}",
    ),
    "yandex": _roles(
        "",
        r"{{ ' Пользователь: ' + m.content + '\n\n' }}",
        r"{{ ' Ассистент: ' + m.content + '\n\n' }}",
        " Ассистент:[SEP]",
    ),
    "solar-open": _each(r"{{ '<|begin|>' + m.role + '<|content|>' + m.content + '<|end|>' }}", "<|begin|>assistant"),
}

TEMPLATE_HINTS: list[tuple[str, str]] = [
    ("<|im_sep|>", "phi4"),
    ("<|im_middle|>", "kimi-k2"),
    ("<|im_start|>", "chatml"),
    ("<|start_header_id|>", "llama3"),
    ("<|header_start|>", "llama4"),
    ("<start_of_turn>", "gemma"),
    ("<|START_OF_TURN_TOKEN|>", "command-r"),
    ("<｜User｜>", "deepseek3"),
    ("<｜hy_Assistant｜>", "hunyuan-dense"),
    ("<|start_of_role|>", "granite"),
    ("[|endofturn|]", "exaone4"),
    ("<seed:bos>", "seed_oss"),
    ("[gMASK]", "chatglm4"),
    ("[SYSTEM_PROMPT]", "mistral-v7-tekken"),
    ("[INST]", "mistral-v3"),
    ("<|channel|>", "gpt-oss"),
    ("<|end|>", "phi3"),
]
"""(a token, the template of models that have it), the first that a vocabulary has counts."""
