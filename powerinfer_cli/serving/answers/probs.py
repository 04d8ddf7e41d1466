"""How likely tokens were, in llama-server's and in OpenAI's words."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from powerinfer_cli.serving.http.bodies import json_bytes
from powerinfer_cli.serving.http.parts import Later, json_list
from powerinfer_cli.serving.tasks import TokenChance, TokenChances

__all__ = ["completion_logprobs", "n_chances", "probabilities", "token_text", "told"]

# JSON has no minus infinity; llama-server writes float32's smallest number.
_NEVER = -3.4028234663852886e38
_FEW = 1024  # chances that are written in a millisecond
_AT_ONCE = 256


def token_text(piece: bytes) -> str:
    """A token's bytes as text: a character that is cut off at the end is left out, other bytes become U+FFFD."""
    return piece[: _whole(piece)].decode("utf-8", "replace")


def _whole(piece: bytes) -> int:
    """The length of `piece` without a character that is cut off at its end."""
    for back in range(1, min(4, len(piece)) + 1):
        byte = piece[-back]
        for lead, mask, length in ((0xC0, 0xE0, 2), (0xE0, 0xF0, 3), (0xF0, 0xF8, 4)):
            if byte & mask == lead and back < length:
                return len(piece) - back
    return len(piece)


def probabilities(chances: Sequence[TokenChances], post_sampling: bool) -> list[dict[str, Any]]:
    """llama-server's `completion_probabilities`, and the `content` of OpenAI's chat logprobs."""
    top = "top_probs" if post_sampling else "top_logprobs"
    return [
        {
            **_one(chance.chosen, post_sampling),
            # What sampling left no chance is not told.
            top: [_one(other, post_sampling) for other in chance.top if not post_sampling or _possible(other)],
        }
        for chance in chances
    ]


def told(chances: Sequence[TokenChances], post_sampling: bool) -> Any:
    """`probabilities` for an answer: many of them are written when their turn comes."""
    if n_chances(chances) <= _FEW:
        return probabilities(chances, post_sampling)
    return Later(lambda: _all_parts(chances, post_sampling))


def n_chances(chances: Iterable[TokenChances]) -> int:
    """How many an answer tells."""
    return sum(len(one.top) for one in chances)


def _all_parts(chances: Sequence[TokenChances], post_sampling: bool) -> Iterator[bytes]:
    yield b"["
    for i, one in enumerate(chances):
        yield b"," * (i > 0) + json_bytes(_one(one.chosen, post_sampling))[:-1]
        yield b',"top_probs":' if post_sampling else b',"top_logprobs":'
        others = (_one(other, post_sampling) for other in one.top if not post_sampling or _possible(other))
        yield from json_list(others, _AT_ONCE)
        yield b"}"
    yield b"]"


def _possible(chance: TokenChance) -> bool:
    """Whether sampling left it a chance; llama-server tells of no others."""
    return math.exp(chance.logprob) > 0


def _one(chance: TokenChance, post_sampling: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"id": chance.id, "token": token_text(chance.piece), "bytes": list(chance.piece)}
    if post_sampling:
        body["prob"] = math.exp(chance.logprob)
    else:
        body["logprob"] = max(chance.logprob, _NEVER)
    return body


def completion_logprobs(chances: Sequence[TokenChances], post_sampling: bool, offset: int = 0) -> dict[str, Any] | None:
    """`logprobs` of an OpenAI text completion: llama-server's `content`, and the four lists that OpenAI documents.

    offset: characters of the text that came before. None for no tokens.
    """
    if not chances:
        return None
    tokens = [token_text(chance.chosen.piece) for chance in chances]
    offsets = [offset]
    for token in tokens[:-1]:
        offsets.append(offsets[-1] + len(token))
    return {
        "content": told(chances, post_sampling),
        "tokens": tokens,
        "token_logprobs": [max(chance.chosen.logprob, _NEVER) for chance in chances],
        "top_logprobs": _by_text(chances),
        "text_offset": offsets,
    }


def _by_text(chances: Sequence[TokenChances]) -> Any:
    if n_chances(chances) <= _FEW:
        return [dict(_texts(chance)) for chance in chances]
    return Later(lambda: _text_parts(chances))


def _text_parts(chances: Sequence[TokenChances]) -> Iterator[bytes]:
    yield b"["
    for i, chance in enumerate(chances):
        yield b"," * (i > 0)
        yield from json_list(dict(_texts(chance)).items(), _AT_ONCE, b"{}")
    yield b"]"


def _texts(chance: TokenChances) -> Iterator[tuple[str, float]]:
    return ((token_text(other.piece), max(other.logprob, _NEVER)) for other in chance.top)
