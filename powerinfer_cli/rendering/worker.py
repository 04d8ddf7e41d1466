"""A process that renders, run as a program: the kernel says how much memory and time a template has."""

import json
import resource
import signal
from functools import lru_cache

from jinja2 import Template, TemplateSyntaxError

from .protocol import REPLY, REQUEST
from .sandbox import TemplateEnvironment

__all__ = ["main"]

KEPT_BYTES = 64 << 20
"""A process that holds more afterwards ends, and its memory is the system's again."""
_ENVIRONMENT = TemplateEnvironment()


def main(memory_bytes: int, cpu_ms: int, text_bytes: int) -> None:
    """Render what standard input, a socket, asks for, until it is closed. What takes more than `cpu_ms` of processor
    time ends the process by SIGPROF; `text_bytes` are the most that may be written.
    """
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    # Service managers send it to every process of a service; when this one is to end, its parent knows.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(0, "rb", closefd=False) as requests, open(0, "wb", closefd=False) as replies:
        last = False
        while not last and (head := requests.read(REQUEST.size)):
            signal.setitimer(signal.ITIMER_PROF, cpu_ms / 1000)  # nobody handles the signal, so it works within C, too
            n_source, n_values = REQUEST.unpack(head)
            done, last, answer = _answer(requests.read(n_source), requests.read(n_values), text_bytes)
            replies.write(REPLY.pack(done, last, len(answer)) + answer)
            replies.flush()
            del answer
            signal.setitimer(signal.ITIMER_PROF, 0)


def _limit(which: int, most: int) -> None:
    _, hard = resource.getrlimit(which)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))


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
    with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123  # a file as any other costs
        return int(file.read().split()[1]) * resource.getpagesize() > KEPT_BYTES


def _reason(error: Exception) -> str:
    """One line."""
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    reason = " ".join(str(error)[:2000].split())[:300] or type(error).__name__
    return f"line {error.lineno}: {reason}" if isinstance(error, TemplateSyntaxError) else reason
