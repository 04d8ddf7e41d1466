"""Requests that are meant to do harm by their form: each function sends one attack, once, to a server at `url`.

Each returns what was wrong with the answer, or "" if nothing was; what an attack does to others is for its caller to
measure. None takes longer than PATIENCE_S or sends more than MOST_BYTES.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

__all__ = ["HOSTILE_HTTP", "Attack"]

PATIENCE_S = 60.0
MOST_BYTES = 160 << 20
PIECE = 1 << 16

Attack = Callable[[str], str]


def exchange(url: str, head: str, pieces: Iterator[bytes]) -> tuple[int, int]:
    """The status of the answer, 0 where the server closes without one, and the bytes that it took of the body."""
    sent = 0
    deadline = time.monotonic() + PATIENCE_S
    with connected(url) as peer:
        try:
            peer.sendall(head.encode("latin-1"))
            for piece in pieces:
                if time.monotonic() > deadline or sent > MOST_BYTES:
                    break
                peer.sendall(piece)
                sent += len(piece)
        except OSError:
            pass  # refused in the middle: the answer may be there nevertheless
        return status_of(peer), sent


def connected(url: str) -> socket.socket:
    """A connection to the server."""
    place = urlsplit(url)
    return socket.create_connection((place.hostname or "127.0.0.1", place.port or 80), timeout=PATIENCE_S)


def status_of(peer: socket.socket) -> int:
    """The status of the answer that comes, 0 for none."""
    first = b""
    with contextlib.suppress(OSError):
        while b"\r\n" not in first and (data := peer.recv(PIECE)):
            first += data
    words = first.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def post(url: str, path: str, body: bytes, *fields: str) -> int:
    """The status of the answer."""
    pieces = (body[at : at + PIECE] for at in range(0, len(body), PIECE))
    return exchange(url, head("POST", path, f"Content-Length: {len(body)}", *fields), pieces)[0]


def head(method: str, path: str, *fields: str) -> str:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *fields]) + "\r\n\r\n"


def wanted(status: int, *statuses: int) -> str:
    return "" if status in statuses else f"status {status}, not {' or '.join(map(str, statuses))}"


def list_of(part: bytes, n_bytes: int) -> bytes:
    """A JSON array of so many bytes that repeats one value."""
    return b"[" + b",".join([part] * (n_bytes // (len(part) + 1))) + b"]"


def empty_texts(url: str) -> str:
    """330,000 texts to tokenize, all empty: 1 MB."""
    body = b'{"content": ' + list_of(b'""', 990_000) + b"}"
    return wanted(post(url, "/tokenize", body), 200, 400)


def short_texts(url: str) -> str:
    """250,000 texts of a letter."""
    body = b'{"content": ' + list_of(b'"a"', 1_000_000) + b"}"
    return wanted(post(url, "/tokenize", body), 200, 400)


def short_prompts(url: str) -> str:
    """A prompt that is pieced together from 250,000 texts of a letter."""
    body = b'{"n_predict": 1, "prompt": [1,' + list_of(b'"a"', 1_000_000)[1:] + b"}"
    return wanted(post(url, "/completion", body), 400)


def long_text(url: str) -> str:
    """2 MB of text to tokenize, with the text of each token."""
    body = b'{"with_pieces": true, "content": "' + b"Once upon a time there was a fox. " * (2_000_000 // 34) + b'"}'
    return wanted(post(url, "/tokenize", body), 200, 413)


def spaces(url: str) -> str:
    """2 MB of spaces: a single word."""
    return wanted(post(url, "/tokenize", b'{"content": "' + b" " * 2_000_000 + b'"}'), 200, 413)


def longer_text(url: str) -> str:
    """14 MB of text to tokenize."""
    body = b'{"content": "' + b"Once upon a time there was a fox. " * (12_000_000 // 34) + b'"}'
    return wanted(post(url, "/tokenize", body), 200, 413)


def many_lists(url: str) -> str:
    """60 MB of [],[] as a prompt."""
    return wanted(post(url, "/completion", b'{"prompt": ' + list_of(b"[]", 60_000_000) + b"}"), 400, 413)


def some_lists(url: str) -> str:
    """15 MB of [],[] as messages of a chat."""
    return wanted(post(url, "/v1/chat/completions", b'{"messages": ' + list_of(b"[]", 15_000_000) + b"}"), 400, 413)


def few_lists(url: str) -> str:
    """780 KB of [],[] as a chat's messages: not too many to be read."""
    return wanted(post(url, "/v1/chat/completions", b'{"messages": ' + list_of(b"[]", 780_000) + b"}"), 400)


def few_objects(url: str) -> str:
    """1 MB of tools without a name."""
    body = b'{"messages": [{"role": "user", "content": "x"}], "tools": ' + list_of(b'{"a":1}', 1_000_000) + b"}"
    return wanted(post(url, "/v1/chat/completions", body), 400)


def few_keys(url: str) -> str:
    """2 MB of a schema whose 180,000 keys all differ."""
    fields = b",".join(b'"%d":1' % number for number in range(180_000))
    return wanted(
        post(url, "/completion", b'{"prompt": "a", "n_predict": 1, "json_schema": {' + fields + b"}}"), 200, 400
    )


def many_tokens(url: str) -> str:
    """The text of 475,000 tokens."""
    return wanted(post(url, "/detokenize", b'{"tokens": ' + list_of(b"300", 1_900_000) + b"}"), 200, 400)


def many_keys(url: str) -> str:
    """15 MB of an object whose keys all differ."""
    fields = b",".join(b'"%d":1' % number for number in range(1_500_000))
    return wanted(post(url, "/completion", b'{"prompt": "a", "json_schema": {' + fields + b"}}"), 400, 413)


def body_where_none_is_needed(url: str) -> str:
    """15 MB to a route that reads a file's name, at most."""
    return wanted(post(url, "/props", list_of(b"[]", 15_000_000)), 413)


def trailers(url: str) -> str:
    """150 MB of fields behind a chunked body."""
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 100) for number in range(600))
    start = head("POST", "/tokenize", "Transfer-Encoding: chunked")
    status, sent = exchange(
        url, start, iter([b'f\r\n{"content": ""}\r\n0\r\n', *[fields] * (150_000_000 // len(fields))])
    )
    return f"{sent} bytes of trailers taken, status {status}" if sent > 20_000_000 else ""


def endless_trailer(url: str) -> str:
    """150 MB of a single field's value behind a chunked body."""
    start = head("POST", "/tokenize", "Transfer-Encoding: chunked")
    pieces = iter([b'f\r\n{"content": ""}\r\n0\r\nX-A: ', *[b"a" * PIECE] * (150_000_000 // PIECE)])
    status, sent = exchange(url, start, pieces)
    return f"{sent} bytes of a trailer taken, status {status}" if sent > 20_000_000 else ""


def held_bodies(url: str) -> str:
    """40 bodies of almost 15 MB, none of which ends while the others come."""
    start = head("POST", "/completion", f"Content-Length: {15 << 20}").encode()
    with contextlib.ExitStack() as peers:
        for _ in range(40):
            peer = peers.enter_context(connected(url))
            peer.settimeout(2.0)
            with contextlib.suppress(OSError):  # refused, or not read any more
                peer.sendall(start + b'{"prompt": "' + b"a" * ((15 << 20) - 100))
        time.sleep(1.0)
    return ""


def idle_connections(url: str) -> str:
    """120 connections that say nothing for three seconds; a client that comes meanwhile must be answered."""
    with contextlib.ExitStack() as peers:
        for _ in range(120):
            with contextlib.suppress(OSError):
                peers.enter_context(connected(url))
        time.sleep(3.0)
        return wanted(exchange(url, head("GET", "/health"), iter(()))[0], 200)


def pipelined(url: str) -> str:
    """3 connections that each send 14,000 requests at once, behind one whose answer takes a while."""
    body = b'{"prompt": "a", "n_predict": 200, "stream": true, "ignore_eos": true}'
    first = f"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with contextlib.ExitStack() as peers:
        for _ in range(3):
            peer = peers.enter_context(connected(url))
            peer.settimeout(0.5)
            with contextlib.suppress(OSError):  # closed, or not read any more
                peer.sendall(first)
                time.sleep(0.05)
                peer.sendall(b"GET / HTTP/1.1\r\n\r\n" * 14_000)
        time.sleep(1.0)
    return ""


def foreign_page(url: str) -> str:
    """What any web page may send without asking first: a form's POST in plain text."""
    fields = ("Origin: http://evil.example", "Content-Type: text/plain", "Sec-Fetch-Site: cross-site")
    return wanted(post(url, "/completion", b'{"prompt": "a", "n_predict": 1}', *fields), 403)


HOSTILE_HTTP: dict[str, Attack] = {
    "empty texts": empty_texts,
    "short texts": short_texts,
    "short prompts": short_prompts,
    "long text": long_text,
    "longer text": longer_text,
    "spaces": spaces,
    "many lists": many_lists,
    "some lists": some_lists,
    "many keys": many_keys,
    "few lists": few_lists,
    "few objects": few_objects,
    "few keys": few_keys,
    "many tokens": many_tokens,
    "body where none is needed": body_where_none_is_needed,
    "trailers": trailers,
    "endless trailer": endless_trailer,
    "held bodies": held_bodies,
    "idle connections": idle_connections,
    "pipelined": pipelined,
    "foreign page": foreign_page,
}
