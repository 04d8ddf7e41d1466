"""A model that is open: what a Python program does with it."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model
from powerinfer_cli.opening.companions import Companions
from powerinfer_cli.opening.context import Context
from powerinfer_cli.opening.planning.placing import PlacingResult
from powerinfer_cli.opening.prompts import POOLINGS, chat_messages, prompt_ids
from powerinfer_cli.opening.sampling_wishes import SamplingWishes, TextSettings, wanted
from powerinfer_cli.opening.text_stream import Answer, TextStream
from powerinfer_cli.placement import Placement
from powerinfer_cli.runtime import Engine
from powerinfer_cli.sampling import TokenBreakers, build_sampler
from powerinfer_cli.sampling.forms import grammars_of
from powerinfer_cli.sampling.grammars.grammar import Grammars
from powerinfer_cli.system.memory import return_memory
from powerinfer_cli.text import ChatTemplate, StreamingDetokenizer, Tokenizer
from powerinfer_cli.text.algorithms.ranked_pair import pair_ids
from powerinfer_cli.text.prompt_tails import chat_tails
from powerinfer_cli.text.template_forms import write_chat

__all__ = ["OpenModel"]

Vectors = npt.NDArray[np.float32]


class OpenModel:
    """A model with its engine, from `open_model`; closed where a `with` block ends, or by `close`.

    It holds one context, so it writes one text at a time; threads may share it. gguf: the file; model: its layers, with
    their predictors; beside: what came with it. placement: what lies on GPUs, None for nothing; gpus: the same for
    people, a line each.
    """

    def __init__(
        self,
        gguf: GGUFFile,
        model: Model,
        engine: Engine,
        tokenizer: Tokenizer | None,
        beside: Companions,
        placed: PlacingResult,
        chat_template: str | None = None,
    ) -> None:
        """Made by `open_model`. chat_template: a built-in's name, a file or a template; None: the model's own."""
        self.gguf, self.model, self.beside, self._tokenizer = gguf, model, beside, tokenizer
        self.placement: Placement | None = placed.placement
        self.gpus = placed.lines
        self._context = Context(engine)
        self._chat_template = chat_template

    def __enter__(self) -> "OpenModel":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<OpenModel {self.gguf.path}>"

    @property
    def path(self) -> Path:
        """Of the file; of a split one, of its first part."""
        return self.gguf.path

    @property
    def engine(self) -> Engine:
        """Token ids in, logits out. Raises PowerInferError: the model is closed."""
        return self._context.engine

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back. Raises PowerInferError: the vocabulary was not read."""
        if self._tokenizer is None:
            raise PowerInferError("the model was opened without its vocabulary: open it with text=True")
        return self._tokenizer

    @property
    def n_ctx(self) -> int:
        """Tokens of context."""
        return self.engine.n_ctx

    @cached_property
    def template(self) -> ChatTemplate:
        """By which messages become a prompt. Raises PowerInferError: it does not compile."""
        if self._chat_template is None:
            return ChatTemplate.from_tokenizer(self.tokenizer)
        return ChatTemplate.from_option(self._chat_template, self.tokenizer)

    def generate(self, prompt: str | Sequence[int], **sampling: Unpack[SamplingWishes]) -> TextStream:
        """Continue a text, or token ids: an iterator over pieces of text as they are written; `.read()` is all of it.

        Keywords are named as OpenAI and llama-cpp-python name them; defaults are those of `powerinfer main`, which
        writes the same for the same seed:

        - max_tokens: None writes until the model ends the text or the context is full
        - stop: a text or several, before which the text ends
        - seed: None is a new one each time
        - temperature (0.8; 0: greedy), top_k (40; 0: off), top_p (0.95; 1: off), min_p (0.05; 0: off)
        - repeat_penalty (1: off), frequency_penalty, presence_penalty (0: off), repeat_last_n (64)
        - typical_p, tfs_z, top_n_sigma, xtc_probability, xtc_threshold, dynatemp_range, dynatemp_exponent, min_keep,
          dry_multiplier, dry_base, dry_allowed_length, dry_penalty_last_n, dry_sequence_breakers, adaptive_target,
          adaptive_decay, mirostat_mode, mirostat_tau, mirostat_eta: as the flags of these names; off without
        - samplers: their names, in order; logit_bias: biases by token id; ignore_eos: the model cannot end the text
        - grammar: GBNF that the text must match; json_schema: write JSON of this schema; response_format: OpenAI's

        Raises:
            PowerInferError: one line: values that make no sense, or a prompt that does not fit.
        """
        how = wanted("generate", sampling)
        ids = prompt_ids(self.tokenizer, prompt)
        detokenizer = StreamingDetokenizer(self.tokenizer, strip_first_space=True)
        for token in ids:
            detokenizer.push(token)
        return self._begin(ids, how, detokenizer)

    @overload
    def chat(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        stream: Literal[False] = False,
        template_variables: Mapping[str, Any] | None = None,
        **sampling: Unpack[SamplingWishes],
    ) -> Answer: ...
    @overload
    def chat(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        stream: Literal[True],
        template_variables: Mapping[str, Any] | None = None,
        **sampling: Unpack[SamplingWishes],
    ) -> TextStream: ...
    def chat(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        stream: bool = False,
        template_variables: Mapping[str, Any] | None = None,
        **sampling: Unpack[SamplingWishes],
    ) -> Answer | TextStream:
        """Answer a conversation by the model's chat template; the answer's `.text`, or with `stream` its pieces.

        messages: of `role` and `content` each, the latter a text or OpenAI's parts of type text. template_variables:
        what the template takes besides, as {"enable_thinking": False}. Other keywords: as for `generate`.

        Raises:
            PowerInferError: as `generate`, or the template fails.
        """
        how = wanted("chat", sampling)
        read, variables = chat_messages(messages), template_variables or {}
        prompt = write_chat(self.template, read, **variables)
        tails = chat_tails(self.template, self.tokenizer, prompt, read, **variables)
        ids = prompt_ids(self.tokenizer, prompt)
        answer = self._begin(ids, how, StreamingDetokenizer(self.tokenizer, strip_first_space=True), tails)
        return answer if stream else answer.read()

    def embed(self, text: str | Sequence[str], *, pooling: str | None = None, normalize: bool = True) -> Vectors:
        """The vector of a text, [n_embd], or of each of several, [n, n_embd]: float32, of length 1 if `normalize`.

        pooling: "mean" of the tokens' hidden states behind the last norm, "cls" (the first) or "last"; None: as the
        model says, or "mean".

        Raises:
            PowerInferError: no such pooling, or a text that does not fit the context.
        """
        own = self.model.config.pooling
        pooling = pooling or (own if own in POOLINGS else "mean")
        if pooling not in POOLINGS:
            raise UsageError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r:.60}")
        texts = [text] if isinstance(text, str) else list(text)
        if not all(isinstance(one, str) for one in texts):
            raise UsageError("embed() takes a text or a list of texts")
        rows = self._vectors(texts, pooling, normalize)
        return rows[0] if isinstance(text, str) else rows

    def rerank(self, query: str, documents: Sequence[str]) -> Vectors:
        """How well each document answers a query, [n]: float32, higher is better; by a model that ranks texts.

        Raises:
            PowerInferError: a model without a classification head, or a pair of texts that does not fit.
        """
        scorer = self.engine.scorer
        pairs = [pair_ids(self.tokenizer, query, document) for document in documents]
        pooled = self._context.hidden(pairs, scorer.pooling)
        return np.array([scorer.scores(rows[0])[0] for rows in pooled], np.float32)

    def close(self) -> None:
        """End its threads and give its memory back; closing twice is fine. A text that is being written ends."""
        self._context.close()
        self.gguf.close()
        return_memory()

    @cached_property
    def _grammars(self) -> Grammars:
        return grammars_of(self.tokenizer)

    def _begin(
        self, ids: Sequence[int], how: TextSettings, detokenizer: StreamingDetokenizer, tails: Sequence[int] = ()
    ) -> TextStream:
        engine = self.engine
        room = engine.n_ctx_sequence
        if len(ids) >= room:
            raise PowerInferError(
                f"the prompt has {len(ids)} tokens, but the context holds {room}: shorten it, or give a larger n_ctx"
            )
        sampler = build_sampler(
            how.sampler,
            n_vocab=engine.config.n_vocab,
            n_ctx_train=engine.config.n_ctx_train,
            eog_ids=self.tokenizer.eog_ids,
            breakers=lambda texts: TokenBreakers.of(texts, self.tokenizer),
        )
        asked = how.form.grammar is not None or how.form.json_schema is not None
        made = how.form.compiled(self._grammars) if asked else None
        constraint = None if made is None else made()
        return TextStream(
            self._context, self.tokenizer, ids, sampler, constraint, detokenizer, how.max_tokens, how.stop, tails
        )

    def _vectors(self, texts: Sequence[str], pooling: str, normalize: bool) -> Vectors:
        ids = [self.tokenizer.encode(text) for text in texts]
        if not all(ids):
            raise UsageError("an empty text has no vector")
        if not ids:
            return np.empty((0, self.engine.config.n_embd), np.float32)
        vectors = np.concatenate(self._context.hidden(ids, pooling)).astype(np.float64)
        lengths = np.sqrt((vectors * vectors).sum(1, keepdims=True))
        scaled = vectors / np.where(lengths > 0, lengths, 1.0) if normalize else vectors
        return scaled.astype(np.float32)
