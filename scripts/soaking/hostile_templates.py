"""What hostile chats may do to a server whose template is hostile, or is not. Plain functions: each attacks once, with
a bounded request, and returns what was wrong with the answer, or "" if nothing was.

No request can bring a template, so the server is started with one that holds all attacks, each for a message of its
own: `--chat-template-file` of what `guarded` writes. Other messages are rendered as ever.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

__all__ = ["ATTACKS", "SNIPPETS", "ever", "guarded"]

PATIENCE_S = 120.0
TRIGGER = "attack: "
DOUBLED = "{% set n = namespace(v=['a']) %}{% for i in range(60) %}{% set n.v = [n.v, n.v] %}{% endfor %}"
# No constants, which would be computed when the template is compiled.
LONG = "{% set k = messages | length %}{% set a = 'a' * (k * 10000000) %}{% set b = 'a' * (k * 10000000) %}"
EVER = "{% for i in range(99999) %}{% for j in range(99999) %}BODY{% endfor %}{% endfor %}"


def ever(body: str) -> str:
    """`body` ten thousand million times."""
    return EVER.replace("BODY", body)


# Each would compute or remember without end.
SNIPPETS = {
    "loops": ever(""),
    "shared structure as JSON": DOUBLED + "{{ n.v | tojson }}",
    "shared structure as text": DOUBLED + "{{ n.v | string | length }}",
    "shared structure, printed": DOUBLED + "{{ n.v | pprint }}",
    "shared structure, compared": DOUBLED.replace("n.v, n.v", "n.v, n.v, i")
    + "{% set m = namespace(v=['a']) %}{% for i in range(60) %}{% set m.v = [m.v, m.v, i] %}{% endfor %}"
    + "{{ n.v == m.v }}",
    "nested times": "{% set k = 300 * messages | length %}{{ ([([([([0] * k)] * k)] * k)] * k) | string | length }}",
    "times in loops": "{% set n = namespace(v='a') %}{% for i in range(60) %}{% set n.v = n.v * 9 %}{% endfor %}",
    "pprint": "{{ range(99999) | list | pprint | pprint | pprint | pprint | pprint | pprint | pprint | pprint }}" * 9,
    "sum of lists": "{{ ([range(99999) | list] * 9999) | sum(start=[]) | length }}",
    "equal": LONG + ever("{{ '' if a == b }}"),
    "in": LONG + ever("{{ '' if (b ~ 'b') in a }}"),
    "slices": LONG + ever("{% set c = a[1:] %}"),
    "separators": "{{ range(99999) | list | tojson(separators=('a' * 99999, ':')) }}",
    "wordwrap": LONG + "{{ a | wordwrap(1) }}",
    "title": LONG + ever("{% set c = a | title %}"),
    "groupby": "{% set l = range(99999) | list %}" + ever("{% set c = l | groupby('real') %}"),
    "sort": "{% set l = range(99999) | list %}" + ever("{% set c = l | sort(reverse=true) %}"),
    "strftime": ever("{% set c = strftime_now('%c' * 1000000) %}"),
    "macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "all lower": LONG + ever("{% set c = a | lower | upper | reverse | length %}"),
    "urlize": LONG + ever("{% set c = a | urlize %}"),
    "huge integer": "{% set n = namespace(v=3) %}{% for i in range(90) %}{% set n.v = n.v * n.v %}{% endfor %}",
    "unique": ever("{% set c = range(99999) | unique | list %}"),
    "much output": "{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}",
}
UNSENT = {
    "shared structure, as variables": {"chat_template_kwargs": {"v": [["a"] * 99] * 99}},
    "a template among the variables": {"chat_template_kwargs": {"chat_template": ever(""), "template": ever("")}},
    "a template as a field": {"chat_template": ever("")},
    "variables of the template's own": {"chat_template_kwargs": {"messages": [], "bos_token": ["x"] * 99}},
}
"""Nothing of these may reach a template."""


def guarded(template: str) -> str:
    """`template`, which attacks where the last message asks for it."""
    attacks = "".join(
        f"{{% elif messages[-1].content == {TRIGGER + name!r} %}}{snippet}" for name, snippet in SNIPPETS.items()
    )
    return f"{{% if not messages %}}{attacks}{{% endif %}}{template}"


def post(url: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
    """/apply-template's answer. Raises OSError."""
    request = urllib.request.Request(f"{url}/apply-template", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def snippet(name: str, url: str) -> str:
    """One of the guarded template's attacks: refused, in one line."""
    status, answer = post(url, {"messages": [{"role": "user", "content": TRIGGER + name}]})
    if status == 503:  # its process died, or is not there
        return ""
    return "" if status == 400 and b"the chat template" in answer else f"status {status}: {answer[:150]!r}"


def unsent(name: str, url: str) -> str:
    """What is not for templates: answered as if it were not there."""
    messages = [{"role": "user", "content": "hello"}]
    plain, attacked = post(url, {"messages": messages}), post(url, {"messages": messages, **UNSENT[name]})
    return "" if attacked[0] == 200 and attacked == plain else f"status {attacked[0]}: {attacked[1][:150]!r}"


def many_messages(url: str) -> str:
    """Small ones: rendered, or refused for their number, time or size."""
    pair = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    status, answer = post(url, {"messages": pair * 50_000})
    return "" if status in (200, 400, 413) else f"status {status}: {answer[:150]!r}"


def one_large_message(url: str) -> str:
    """More than a template is given."""
    status, answer = post(url, {"messages": [{"role": "user", "content": "a " * (5 << 20)}]})
    return "" if status in (400, 413) else f"status {status}: {answer[:150]!r}"


def nested_variables(url: str) -> str:
    """Deeper than JSON is read."""
    deep = "[" * 100_000 + "]" * 100_000
    body = b'{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"v": %s}}' % deep.encode()
    request = urllib.request.Request(f"{url}/apply-template", body)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return f"status {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            return "" if error.code == 400 else f"status {error.code}"


ATTACKS: dict[str, Callable[[str], str]] = {
    **{name: partial(snippet, name) for name in SNIPPETS},
    **{name: partial(unsent, name) for name in UNSENT},
    "many messages": many_messages,
    "one large message": one_large_message,
    "nested variables": nested_variables,
}
"""By name; each takes the server's address, as "http://127.0.0.1:8080"."""
