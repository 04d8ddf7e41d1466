"""Escape sequences in prompts, as llama.cpp processes them."""

import re

__all__ = ["process_escapes"]

_SEQUENCE = re.compile(r"\\(x[0-9A-Fa-f]{2}|[nrt'\"\\])")
_PLAIN = {"n": "\n", "r": "\r", "t": "\t", "'": "'", '"': '"', "\\": "\\"}


def process_escapes(text: str) -> str:
    r"""Replace \n, \r, \t, \', \", \\ and \xHH; leave any other backslash as it is. Bytes from \x80 up make UTF-8."""

    def replace(match: re.Match[str]) -> str:
        body = match[1]
        # Bytes pass as surrogates until all are there: several \xHH together may be one character.
        return bytes([int(body[1:], 16)]).decode("utf-8", "surrogateescape") if body[0] == "x" else _PLAIN[body]

    replaced = _SEQUENCE.sub(replace, text)
    return replaced.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
