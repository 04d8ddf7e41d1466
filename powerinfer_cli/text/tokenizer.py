"""The tokenizer of a model file: text to ids and back, as llama.cpp does it for the same file."""

from collections.abc import Iterable
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile, open_gguf

from .algorithms.bpe import BpeEncoder
from .algorithms.spm import SpmEncoder
from .algorithms.unigram import UnigramEncoder, read_unigram_form
from .algorithms.wordpiece import WordPieceEncoder, read_normalizer
from .characters import to_bytes
from .metadata import Metadata, flag, string
from .partition import Partition, SpecialText
from .pieces import TokenPieces, clean_spaces
from .special_tokens import SpecialTokens, read_special_tokens
from .vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary, read_vocabulary

__all__ = ["Tokenizer"]


def _encoder(
    vocabulary: Vocabulary, special: SpecialTokens, metadata: Metadata
) -> SpmEncoder | BpeEncoder | WordPieceEncoder | UnigramEncoder:
    """Of fragments of text that hold no special token."""
    if vocabulary.pre is not None:
        return BpeEncoder(vocabulary.ids, vocabulary.merges, vocabulary.pre)
    if vocabulary.model == "bert":
        return WordPieceEncoder(vocabulary.ids, special.unk_id, read_normalizer(metadata))
    if vocabulary.model == "t5":
        return UnigramEncoder(vocabulary, special.unk_id, read_unigram_form(metadata))
    return SpmEncoder(vocabulary.tokens, vocabulary.ids, vocabulary.scores, special.unk_id)


class Tokenizer:
    """Made from metadata alone; the file may hold no tensors. Safe to share between threads."""

    def __init__(self, metadata: Metadata) -> None:
        """`metadata`: a GGUF's keys. PowerInferError names the key that is missing or wrong."""
        vocabulary = read_vocabulary(metadata)
        special = read_special_tokens(metadata, vocabulary)
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = special.bos_id
        self.eos_id = special.eos_id
        self.eot_id = special.eot_id
        self.unk_id = special.unk_id
        self.pad_id = special.pad_id
        self.sep_id = special.sep_id
        self.fill = special.fill
        """The tokens of fill-in-the-middle."""
        self.eog_ids = special.eog_ids
        self.add_bos = special.add_bos
        self.add_eos = special.add_eos
        self.add_sep = special.add_sep
        """Whether SEP parts two texts, as a query and a document."""
        self.closes_with_sep = vocabulary.model == "bert" and special.sep_id is not None
        self.rerank_template = string(metadata, "tokenizer.chat_template.rerank")
        self.chat_template = string(metadata, "tokenizer.chat_template")
        self.notes = vocabulary.notes + special.notes
        """What the user may want to know about the vocabulary, one line each."""
        escaped = vocabulary.model in ("llama", "t5")  # spaces are, and one is put before a text
        self.add_space_prefix = flag(metadata, "tokenizer.ggml.add_space_prefix", escaped)
        self._tokens = vocabulary.tokens
        self._ids = vocabulary.ids
        self._kinds = special.kinds
        self._clean_spaces = vocabulary.model == "bert" or (vocabulary.pre is not None and vocabulary.pre.clean_spaces)
        self._pieces = TokenPieces(vocabulary, special.kinds)
        specials = [
            SpecialText(i, vocabulary.tokens.raw(i), lstrip=i in special.lstrip, rstrip=i in special.rstrip)
            for i in special.partition
        ]
        self._specials = Partition(specials)
        self._user_defined = Partition([one for one in specials if not self._kinds[one.id] & (CONTROL | UNKNOWN)])
        self._prefixes_space = vocabulary.model == "llama" and self.add_space_prefix
        self._strips_space = escaped and self.add_space_prefix
        self._encoder = _encoder(vocabulary, special, metadata)

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> "Tokenizer":
        """From a GGUF's keys and values."""
        return cls(metadata)

    @classmethod
    def from_gguf(cls, gguf: str | Path | GGUFFile) -> "Tokenizer":
        """From a model file, open or not. PowerInferError names the file."""
        file = gguf if isinstance(gguf, GGUFFile) else open_gguf(gguf)
        try:
            return cls(file.metadata)
        except PowerInferError as error:
            raise PowerInferError(f"{file.path}: {error}") from error
        finally:
            if file is not gguf:
                file.close()

    def encode(self, text: str | bytes, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Ids of `text`. Bytes need not be UTF-8.

        `add_special`: with BOS and EOS where the model wants them. `parse_special`: the texts of control tokens in
        `text` become those tokens; otherwise only user-defined tokens do.
        """
        ids: list[int] = []
        if add_special and self.add_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        after_special = True
        for fragment in (self._specials if parse_special else self._user_defined).cut(to_bytes(text)):
            if isinstance(fragment, int):
                ids.append(fragment)
                after_special = True
            else:
                prefix = b" " if after_special and self._prefixes_space else b""
                ids += self._encoder.encode(prefix + fragment)
                after_special = False
        if add_special and self.closes_with_sep and self.sep_id is not None:
            ids.append(self.sep_id)
        elif add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def forget_words(self) -> None:
        """Drop what is kept only to encode the same words faster: some megabytes. For any thread."""
        self._encoder.forget_words()

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text that `encode` made `ids` of; control tokens are left out unless `special`.

        Nothing is tidied but the space that encoding put before the first word; as in llama.cpp, the one that it put
        behind a special token stays, for a model that writes such a token may have meant it. What is not UTF-8 becomes
        U+FFFD.
        """
        text = b"".join(self.piece(i, special=special) for i in ids)
        return text.removeprefix(b" " if self._strips_space else b"").decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, special: bool = True) -> bytes:
        """The bytes that llama.cpp's detokenize makes of `ids`, special tokens as their text where `special`.

        Besides the space before the first word, spaces before punctuation go where the vocabulary asks for that, so
        that text does not always come back as it was.
        """
        pieces = [self.piece(i, special=special) for i in ids]
        if pieces and self.add_space_prefix:
            pieces[0] = pieces[0].removeprefix(b" ")
        text = b"".join(pieces)
        return clean_spaces(text) if self._clean_spaces else text

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of one token, inside a text; control tokens are empty unless `special`."""
        if not 0 <= token < self.vocab_size:
            raise PowerInferError(f"token id {token} is not in the vocabulary of {self.vocab_size} tokens")
        return b"" if not special and self.is_control(token) else self._pieces[token]

    def is_control(self, token: int) -> bool:
        """Whether the token is no text: a control token or the unknown token."""
        return bool(self._kinds[token] & (CONTROL | UNKNOWN))

    def is_user_defined(self, token: int) -> bool:
        """Whether the token is cut out of every text first."""
        return bool(self._kinds[token] & USER_DEFINED)

    def text_of(self, token: int | None) -> str:
        """The token as the vocabulary spells it, empty for None."""
        return "" if token is None else self._tokens[token]

    def id_of(self, text: str) -> int | None:
        """The token that the vocabulary spells `text`."""
        return self._ids.get(text)
