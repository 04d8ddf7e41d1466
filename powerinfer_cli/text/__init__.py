"""Text: tokenizers from GGUF vocabularies, text while it is generated, chat templates, stop strings."""

from .streaming import StopMatcher, StreamingDetokenizer
from .tokenizer import Tokenizer

__all__ = ["StopMatcher", "StreamingDetokenizer", "Tokenizer"]
