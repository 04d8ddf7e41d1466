"""A process that renders, run as a program: the kernel says how much memory and time a template has."""

import json
import signal
from functools import lru_cache

from jinja2 import Template, TemplateSyntaxError

from powerinfer_cli.system.limits import forbid_files, limit_memory, limit_time, memory_now
from powerinfer_cli.system.sockets import input_streams

from .protocol import REPLY, REQUEST
from .sandbox import TemplateEnvironment

__all__ = ["main"]

KEPT_BYTES = 64 << 20
"""A process that holds more afterwards ends, and its memory is the system's again."""
_ENVIRONMENT = TemplateEnvironment()


def main(memory_bytes: int, cpu_ms: int, text_bytes: int) -> None:
    """Render what standard input, a socket, asks for, until it is closed. What takes more than `cpu_ms` of processor
    time ends the process by SIGPROF, where there is that; `text_bytes` are the most that may be written.
    """
    limit_memory(memory_bytes)
    forbid_files()
    # Service managers send it to every process of a service; when this one is to end, its parent knows.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    requests, replies = input_streams()
    with requests, replies:
        last = False
        while not last and (head := requests.read(REQUEST.size)):
            limit_time(cpu_ms / 1000)
            n_source, n_values = REQUEST.unpack(head)
            done, last, answer = _answer(requests.read(n_source), requests.read(n_values), text_bytes)
            replies.write(REPLY.pack(done, last, len(answer)) + answer)
            replies.flush()
            del answer
            limit_time(0)


def _answer(source: bytes, values: bytes, text_bytes: int) -> tuple[bool, bool, bytes]:
    """As in REPLY."""
    try:
        template = _compiled(source)
        text = template.render(json.loads(values)).encode("utf-8", "surrogatepass") if values else b""
    except MemoryError:
        return False, True, b"it needs too much memory"
    except Exception as error:  # a template is foreign code, which fails as it likes
        return False, _is_large(), _reason(error).encode("utf-8", "replace")
    if len(text) > text_bytes:
        return False, True, b"it writes more than %d MiB" % (text_bytes >> 20)
    return True, _is_large(), text


@lru_cache(maxsize=8)
def _compiled(source: bytes) -> Template:
    return _ENVIRONMENT.from_string(source.decode("utf-8", "surrogatepass"))


def _is_large() -> bool:
    return memory_now() > KEPT_BYTES


def _reason(error: Exception) -> str:
    """One line."""
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    reason = " ".join(str(error)[:2000].split())[:300] or type(error).__name__
    return f"line {error.lineno}: {reason}" if isinstance(error, TemplateSyntaxError) else reason
