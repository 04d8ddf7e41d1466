"""How likely tokens were, in llama-server's and in OpenAI's words."""

import math
from collections.abc import Sequence
from typing import Any

from powerinfer_cli.serving.tasks import TokenChance, TokenChances

__all__ = ["completion_logprobs", "probabilities", "token_text"]

# JSON has no minus infinity; llama-server writes float32's smallest number.
_NEVER = -3.4028234663852886e38


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
            top: [
                _one(other, post_sampling) for other in chance.top if not post_sampling or math.exp(other.logprob) > 0
            ],
        }
        for chance in chances
    ]


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
        "content": probabilities(chances, post_sampling),
        "tokens": tokens,
        "token_logprobs": [max(chance.chosen.logprob, _NEVER) for chance in chances],
        "top_logprobs": [
            {token_text(other.piece): max(other.logprob, _NEVER) for other in chance.top} for chance in chances
        ],
        "text_offset": offsets,
    }
