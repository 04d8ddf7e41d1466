"""Text: tokenizers from GGUF vocabularies, text while it is generated, chat templates, stop strings."""

from .chat_template import ChatTemplate, TemplateError
from .streaming import StopMatcher, StreamingDetokenizer
from .tokenizer import Tokenizer

__all__ = ["ChatTemplate", "StopMatcher", "StreamingDetokenizer", "TemplateError", "Tokenizer"]
