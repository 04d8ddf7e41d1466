"""One small request each that would hold a server, or make it grow, if what follows from it were not bounded.

Each function takes the server's base URL, sends its request once, reads what comes for `SECONDS` at the most, and goes.
It returns the status (0: none came in time). None of these needs more than a megabyte to be sent.
"""

import http.client
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

__all__ = ["HOSTILE_SLOTS", "SECONDS"]

SECONDS = 20.0
PIECE = 1 << 16
COPIES = 500


def send(url: str, path: str, body: Any, *, seconds: float = SECONDS, read: bool = True) -> int:
    """POST once, and read the answer (its bytes are thrown away) until it ends or the time is over."""
    place = urlsplit(url)
    end = time.monotonic() + seconds
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=seconds)
    status = 0
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        if not read:
            time.sleep(seconds)
            return 0
        answer = connection.getresponse()
        status = answer.status
        while time.monotonic() < end and answer.read1(PIECE):
            pass
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    return status


def breakers_of_copies(url: str) -> int:
    """Sequence breakers that a whole vocabulary is searched for, once for each of many copies; its client goes."""
    breakers = [chr(97 + i % 26) + "e" * 39 for i in range(32)] + ["e" * (i + 1) for i in range(32)]
    body = {"prompt": "a", "n_predict": 2, "dry_multiplier": 1.0, "dry_sequence_breakers": breakers}
    return send(url, "/completion", {**body, "n_cmpl": COPIES}, seconds=1.0)


def whole_vocabularies(url: str) -> int:
    """The probability of every token, at every place."""
    return send(url, "/completion", {"prompt": "a", "n_probs": 49152, "n_predict": 42, "ignore_eos": True})


def streamed_vocabularies(url: str) -> int:
    """As many as are told, as they come."""
    body = {"prompt": "a", "n_probs": 49152, "n_predict": 5, "ignore_eos": True, "stream": True}
    return send(url, "/completion", body)


def vocabularies_unread(url: str) -> int:
    """As many as are told, at once, to nobody."""
    body = {"prompt": "a", "n_probs": 49152, "n_predict": 5, "ignore_eos": True}
    return send(url, "/completion", body, seconds=5.0, read=False)


def probabilities_of_copies(url: str) -> int:
    """A usual number of probabilities, for many copies without an end."""
    body = {"prompt": "a", "n_probs": 20, "n_cmpl": COPIES, "ignore_eos": True}
    return send(url, "/completion", body)


def probabilities_unread(url: str) -> int:
    """A stream that nobody reads."""
    body = {"prompt": "a", "n_probs": 20, "n_cmpl": COPIES, "ignore_eos": True, "stream": True}
    return send(url, "/completion", body, read=False)


def echoed_stops(url: str) -> int:
    """Stop strings that each copy's settings repeat."""
    body = {"prompt": "a", "n_predict": 1, "stop": ["x" * 900_000], "n_cmpl": COPIES}
    return send(url, "/completion", body)


def echoed_grammar(url: str) -> int:
    """A grammar that each copy's settings repeat."""
    grammar = 'root ::= "a" | [b-z]+\n' + "#" * 900_000 + "\n"
    return send(url, "/completion", {"prompt": "a", "n_predict": 1, "grammar": grammar, "n_cmpl": COPIES})


def echoed_prompt(url: str) -> int:
    """A prompt that each copy repeats, streamed."""
    body = {"prompt": "a fox " * 250, "n_predict": 1, "n_cmpl": COPIES, "stream": True}
    return send(url, "/completion", body)


def many_samplers(url: str) -> int:
    """The costliest samplers over and over."""
    return _samplers(url, 12)


def costly_samplers(url: str) -> int:
    """As often as they may work."""
    return _samplers(url, 2)


def _samplers(url: str, times: int) -> int:
    """Looking back at all that was written."""
    samplers = ["typ_p", "dry", "penalties", "xtc", "tfs_z"] * times
    body = {"samplers": samplers, "typical_p": 0.99, "tfs_z": 0.99, "dry_multiplier": 0.1, "dry_penalty_last_n": -1}
    more = {"repeat_last_n": -1, "repeat_penalty": 1.01, "xtc_probability": 1.0, "xtc_threshold": 0.4}
    return send(url, "/completion", {"prompt": "a fox " * 250, "n_predict": 20, **body, **more})


def many_copies(url: str) -> int:
    """All places in the queue, for one request."""
    return send(url, "/completion", {"prompt": "Once", "n_predict": 32, "n_cmpl": COPIES, "stream": True})


def copies_that_vanish(url: str) -> int:
    """The same, and away at once."""
    return send(url, "/completion", {"prompt": "Once", "n_predict": 32, "n_cmpl": COPIES, "stream": True}, seconds=0.2)


def many_stops(url: str) -> int:
    """Stop strings that nearly fit, again and again: each may begin at each of the letters that are held back."""
    stops = [" " + "a" * 50 + chr(97 + i % 26) * (i % 13) for i in range(1000)]
    body = {"prompt": "a", "n_predict": 200, "ignore_eos": True, "stop": stops, "grammar": 'root ::= " " "a"*'}
    return send(url, "/completion", body)


def embedded_batch(url: str) -> int:
    """Vectors of many texts; of every token where the server does not pool."""
    return send(url, "/embedding", {"content": ["a fox " * 20] * COPIES})


def restored_pipe(url: str, filename: str = "pipe") -> int:
    """A slot from a file that never ends to be opened: a named pipe that somebody put into --slot-save-path."""
    return send(url, "/slots/0?action=restore", {"filename": filename}, seconds=5.0)


HOSTILE_SLOTS: tuple[Callable[[str], int], ...] = (
    breakers_of_copies,
    whole_vocabularies,
    streamed_vocabularies,
    vocabularies_unread,
    probabilities_of_copies,
    probabilities_unread,
    echoed_stops,
    echoed_grammar,
    echoed_prompt,
    many_samplers,
    costly_samplers,
    many_copies,
    copies_that_vanish,
    many_stops,
    embedded_batch,
    restored_pipe,
)
