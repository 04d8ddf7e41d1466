"""Chat messages to a prompt, by the model's own Jinja template or a built-in one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.rendering.limits import Cause, RenderingError
from powerinfer_cli.rendering.renderer import Renderer, shared_renderer

from .builtin_templates import BUILTIN_TEMPLATES, TEMPLATE_HINTS
from .tokenizer import Tokenizer

__all__ = ["ChatTemplate", "TemplateError"]

DEFAULT = "alpaca"
LARGEST_FILE = 1 << 20


class TemplateError(PowerInferError):
    """A template fails; cause: whose fault it is."""

    def __init__(self, message: str, cause: Cause) -> None:
        super().__init__(message)
        self.cause = cause


class ChatTemplate:
    """A template that compiles. Rendering is pure, and safe from several threads; it is done in another process."""

    def __init__(
        self, source: str, origin: str, tokenizer: Tokenizer | None = None, renderer: Renderer | None = None
    ) -> None:
        """`source`: Jinja. `origin`: where it is from, for messages. `tokenizer`: whose BOS and EOS it may use.

        Raises TemplateError.
        """
        self.source = source
        self.origin = origin
        self._bos = tokenizer.text_of(tokenizer.bos_id) if tokenizer else ""
        self._eos = tokenizer.text_of(tokenizer.eos_id) if tokenizer else ""
        self._drop_bos = bool(tokenizer and tokenizer.add_bos)
        self._drop_eos = bool(tokenizer and tokenizer.add_eos)
        self._renderer = renderer or shared_renderer()
        try:
            self._renderer.check(source)
        except RenderingError as error:
            raise self._failure(error) from error

    @staticmethod
    def builtin_names() -> list[str]:
        """The names that `named` takes."""
        return sorted(BUILTIN_TEMPLATES)

    @classmethod
    def named(cls, name: str, tokenizer: Tokenizer | None = None) -> "ChatTemplate":
        """A built-in template."""
        if name not in BUILTIN_TEMPLATES:
            known = ", ".join(cls.builtin_names())
            raise PowerInferError(f"no built-in chat template is called {name[:80]!r}; known are {known}")
        return cls(BUILTIN_TEMPLATES[name], f"built-in {name}", tokenizer)

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer, default: str = DEFAULT) -> "ChatTemplate":
        """The model's own template; without one, the built-in that its vocabulary hints at, or else that which
        `default` names. `origin` says which.
        """
        if tokenizer.chat_template is not None:
            return cls(tokenizer.chat_template, "the model's own", tokenizer)
        for token, name in TEMPLATE_HINTS:
            if tokenizer.id_of(token) is not None:
                origin = f"built-in {name} (the model has no chat template, but its vocabulary has {token})"
                return cls(BUILTIN_TEMPLATES[name], origin, tokenizer)
        origin = f"built-in {default} (the model has no chat template)"
        return cls(BUILTIN_TEMPLATES[default], origin, tokenizer)

    @classmethod
    def from_gguf(cls, gguf: GGUFFile | Mapping[str, Any]) -> "ChatTemplate":
        """As `from_tokenizer`, from an open file or its metadata."""
        tokenizer = Tokenizer.from_gguf(gguf) if isinstance(gguf, GGUFFile) else Tokenizer.from_metadata(gguf)
        return cls.from_tokenizer(tokenizer)

    @classmethod
    def from_option(cls, option: str, tokenizer: Tokenizer | None = None) -> "ChatTemplate":
        """What --chat-template means: a built-in's name, a file, or a template itself.

        A template is something with {{ or {%; or several words that are no file, which every prompt then consists of.
        """
        if option in BUILTIN_TEMPLATES:
            return cls.named(option, tokenizer)
        if "{{" in option or "{%" in option:
            return cls(option, "the command line", tokenizer)
        path = Path(option)
        if " " in option and not path.suffix and not path.exists():
            return cls(option, "the command line", tokenizer)
        if not path.is_file():
            known = ", ".join(cls.builtin_names())
            raise PowerInferError(f"--chat-template {option[:200]}: neither a file nor a built-in; known are {known}")
        return cls(_read(path), str(path), tokenizer)

    def render(
        self, messages: Sequence[Mapping[str, Any]], /, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The prompt for `messages` (role and content each), to be encoded with special tokens added and parsed.

        BOS and EOS that encoding adds are not in it. `variables` are for the template (tools, enable_thinking, ...),
        and JSON as messages are. Raises TemplateError.
        """
        values = {
            "messages": [dict(message) for message in messages],
            "tools": None,
            "documents": None,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        try:
            prompt = self._renderer.render(self.source, values)
        except RenderingError as error:
            raise self._failure(error) from error
        if self._drop_bos:
            prompt = prompt.removeprefix(self._bos)
        return prompt.removesuffix(self._eos) if self._drop_eos else prompt

    def _failure(self, error: RenderingError) -> TemplateError:
        return TemplateError(f"the chat template ({self.origin}) failed: {error}", error.cause)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise PowerInferError(f"--chat-template {path}: the file is larger than {LARGEST_FILE} bytes")
        return data.decode("utf-8")
    except OSError as error:
        raise PowerInferError(f"--chat-template {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PowerInferError(f"--chat-template {path}: not UTF-8 at byte {error.start}") from error
