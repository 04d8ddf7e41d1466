"""Record what llama.cpp's built-in chat templates write. Needs llama-cpp-python, nothing of ours.

Usage: python scripts/recording/record_chat_templates.py; writes tests/text/data/llama_cpp_templates.json.
"""

import ctypes
import json
from pathlib import Path

import llama_cpp

TARGET = Path(__file__).parents[2] / "tests" / "text" / "data" / "llama_cpp_templates.json"
CHATS = {
    "plain": [("user", " Hi there \n")],
    "system": [("system", " Be kind. "), ("user", "Hi"), ("assistant", " Hello! "), ("user", "Bye  ")],
    "long": [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
}
ROOM = 20_000


def names() -> list[str]:
    """The templates that llama.cpp has."""
    count = llama_cpp.llama_chat_builtin_templates(None, 0)
    found = (ctypes.c_char_p * count)()
    llama_cpp.llama_chat_builtin_templates(found, count)
    return sorted(name.decode() for name in found if name)


def render(name: str, chat: list[tuple[str, str]], add_generation_prompt: bool) -> str:
    """What the template `name` makes of `chat`."""
    messages = [llama_cpp.llama_chat_message(role.encode(), content.encode()) for role, content in chat]
    array = (llama_cpp.llama_chat_message * len(chat))(*messages)
    buffer = ctypes.create_string_buffer(ROOM)
    length = llama_cpp.llama_chat_apply_template(name.encode(), array, len(chat), add_generation_prompt, buffer, ROOM)
    return buffer.raw[:length].decode()


def main() -> None:
    """Render every chat by every template, with and without the prompt for an answer (`/1`, `/0`)."""
    expected = {
        name: {
            f"{key}/{int(asked)}": render(name, chat, asked) for key, chat in CHATS.items() for asked in (False, True)
        }
        for name in names()
    }
    chats = {key: [{"role": role, "content": content} for role, content in chat] for key, chat in CHATS.items()}
    record = json.dumps({"chats": chats, "expected": expected}, ensure_ascii=False, indent=1, sort_keys=True)
    TARGET.write_text(record + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
