"""The fields that every endpoint which generates text shares: how much, how sampled, how constrained, how told."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.sampling import SamplerOptions, parse_sampler_sequence, parse_samplers
from powerinfer_cli.sampling.grammars.grammar import Constraint
from powerinfer_cli.serving.errors import invalid_request
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import CompletionTask
from powerinfer_cli.text import Tokenizer

from .fields import FromMinusOne, Integer, Natural, Number, RequestFields, Switch, TextOrTexts, Texts, whole
from .logit_bias import LogitBias, read_logit_bias

__all__ = ["SamplingFields", "StreamOptions", "copies_of"]

# Request's field -> SamplerOptions' where they differ.
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "temp",
        "typical_p": "typ_p",
        "repeat_last_n": "penalty_last_n",
        "repeat_penalty": "penalty_repeat",
        "frequency_penalty": "penalty_freq",
        "presence_penalty": "penalty_present",
    }
)
_SAME = (
    *("seed", "min_keep", "top_k", "top_p", "min_p", "xtc_probability", "xtc_threshold", "tfs_z", "dynatemp_range"),
    *("dynatemp_exponent", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
    *("adaptive_target", "adaptive_decay", "mirostat", "top_n_sigma", "mirostat_tau", "mirostat_eta", "ignore_eos"),
)
# SamplerOptions tells of flags; flag -> request's field where they differ by more than dashes.
_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "--temp": "temperature",
        "--typical": "typical_p",
        "--tfs": "tfs_z",
        "--top-nsigma": "top_n_sigma",
        "--dynatemp-exp": "dynatemp_exponent",
        "--mirostat-ent": "mirostat_tau",
        "--mirostat-lr": "mirostat_eta",
    }
)
# llama-server takes the nearest value inside.
_CLAMPED: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "top_k": (0, 2**31 - 1),
        "top_p": (0.0, 1.0),
        "min_p": (0.0, 1.0),
        "typical_p": (float("-inf"), 1.0),
        "tfs_z": (float("-inf"), 1.0),
        "dynatemp_range": (0.0, float("inf")),
        "xtc_probability": (0.0, 1.0),
        "xtc_threshold": (0.0, 1.0),
        "temperature": (0.0, float("inf")),
        "mirostat": (0, 2),
        "adaptive_target": (float("-inf"), 1.0),
    }
)
_RANDOM_SEED = 2**32 - 1  # -1 in llama.cpp's 32 bits
_MOST_SAMPLERS = 64  # names, several times all that there are
_MOST_TIMES = 2  # that one of them may work: each costs time with every token. Clients' lists have old and new names
_MOST_BREAKERS = 64  # each is looked for in every token of a text
_Name = Annotated[str, Field(max_length=_MOST_SAMPLERS)]


def _wrapped(seed: int) -> int:
    """As llama-server takes what clients draw from 64 bits."""
    return seed % 2**32


class StreamOptions(RequestFields):
    include_usage: Switch | None = None


class SamplingFields(RequestFields):
    """llama-server's fields under its names; what is absent is the server's default."""

    stream: Switch | None = None
    stream_options: StreamOptions | None = None
    n_predict: FromMinusOne | None = Field(None, description="most tokens to write; -1 for no limit")
    max_completion_tokens: FromMinusOne | None = Field(None, description="n_predict's name in OpenAI's chat")
    max_tokens: FromMinusOne | None = Field(None, description="n_predict's name in OpenAI's completions")
    n_keep: FromMinusOne | None = None
    n_discard: Natural | None = None
    n_indent: Natural | None = None
    n_cmpl: Annotated[int, Field(strict=True, ge=1, le=1024), whole] | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=1024), whole] | None = Field(
        None, description="n_cmpl's name in OpenAI's"
    )
    t_max_predict_ms: Annotated[int, Field(strict=True, ge=-1, le=2**63 - 1), whole] | None = None
    stop: TextOrTexts | None = None
    cache_prompt: Switch | None = None
    id_slot: Integer | None = None
    return_tokens: Switch | None = None
    return_progress: Switch | None = None
    timings_per_token: Switch | None = None
    sse_ping_interval: FromMinusOne | None = Field(None, description="seconds of silence that end with a comment")
    post_sampling_probs: Switch | None = None
    n_probs: Natural | None = None
    logprobs: Natural | Switch | None = Field(None, description="n_probs' name in OpenAI's completions")
    lora: list[Any] | None = Field(None, max_length=0, description="no adapters are loaded")
    response_fields: Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=1024)] | None = None
    preserved_tokens: Texts | None = None
    grammar: str | None = Field(None, description="GBNF")
    json_schema: dict[str, Any] | None = None

    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64), whole, AfterValidator(_wrapped)] | None = None
    temperature: Number | None = None
    dynatemp_range: Number | None = None
    dynatemp_exponent: Number | None = None
    top_k: Integer | None = None
    top_p: Number | None = None
    min_p: Number | None = None
    top_n_sigma: Number | None = None
    xtc_probability: Number | None = None
    xtc_threshold: Number | None = None
    typical_p: Number | None = None
    tfs_z: Number | None = None
    repeat_last_n: FromMinusOne | None = None
    repeat_penalty: Number | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    dry_multiplier: Number | None = None
    dry_base: Number | None = None
    dry_allowed_length: Natural | None = None
    dry_penalty_last_n: FromMinusOne | None = None
    dry_sequence_breakers: Annotated[list[str], Field(min_length=1, max_length=_MOST_BREAKERS)] | None = None
    mirostat: Integer | None = None
    mirostat_tau: Number | None = None
    mirostat_eta: Number | None = None
    adaptive_target: Number | None = None
    adaptive_decay: Annotated[Number, Field(ge=0.0, le=0.99)] | None = None
    min_keep: Natural | None = None
    ignore_eos: Switch | None = None
    samplers: Annotated[list[_Name], Field(max_length=_MOST_SAMPLERS)] | _Name | None = Field(
        None, description="names in their order, or a string of their letters"
    )
    logit_bias: LogitBias | None = None
    draft_max: Natural | None = Field(None, alias="speculative.n_max", description="most tokens of a draft; 0: none")
    draft_min: Natural | None = Field(None, alias="speculative.n_min", description="shorter drafts are dropped")

    @property
    def copies(self) -> int:
        """How many texts are wanted of one prompt."""
        return self.n_cmpl or self.n or 1

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def ping_s(self) -> float:
        """Seconds of silence in a stream after which a comment is sent; 0 or less for never."""
        return 30.0 if self.sse_ping_interval is None else float(self.sse_ping_interval)

    def limit(self, options: ServerOptions) -> int:
        """The most tokens to write, negative for no limit."""
        for value in (self.n_predict, self.max_completion_tokens, self.max_tokens):
            if value is not None:
                return value if value >= 0 else options.n_predict
        return options.n_predict

    def probs(self) -> int:
        """How many likely tokens to tell with each; 0 for none."""
        return int(self.n_probs if self.n_probs is not None else self.logprobs or 0)

    def task(
        self,
        prompt: tuple[int, ...],
        service: Service,
        *,
        n_predict: int | None = None,
        n_probs: int | None = None,
        constraint: Callable[[], Constraint] | None = None,
        stop: tuple[str, ...] = (),
        preserved: frozenset[int] = frozenset(),
        special: bool = False,
        strip_first_space: bool = False,
        label: str = "completion",
    ) -> CompletionTask:
        """The task for one prompt. Raises APIError 400, naming the field.

        n_predict, n_probs, constraint: instead of the fields'. stop, preserved: besides the fields'.
        """
        options = service.options
        return CompletionTask(
            prompt=prompt,
            sampler=self.sampler(service),
            n_predict=self.limit(options) if n_predict is None else n_predict,
            n_keep=self.n_keep or 0,
            n_discard=self.n_discard or 0,
            stop=(*(word for word in self.stop or () if word), *stop),
            n_probs=self.probs() if n_probs is None else n_probs,
            post_sampling_probs=bool(self.post_sampling_probs),
            cache_prompt=options.cache_prompt if self.cache_prompt is None else self.cache_prompt,
            id_slot=self._slot(service.model.n_slots),
            t_max_predict_ms=-1 if self.t_max_predict_ms is None else self.t_max_predict_ms,
            n_indent=self.n_indent or 0,
            constraint=self.constraint(service) if constraint is None else constraint,
            special=special,
            strip_first_space=strip_first_space,
            preserved=preserved | self._preserved(service.model.tokenizer),
            return_progress=bool(self.return_progress and self.stream),
            draft_max=self.draft_max,
            draft_min=self.draft_min,
            label=label,
        )

    def sampler(self, service: Service) -> SamplerOptions:
        """The server's sampler with this request's fields. Raises APIError 400, naming the field."""
        chosen: dict[str, Any] = {name: getattr(self, name) for name in (*_SAME, *_NAMES)}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        for name, (smallest, largest) in _CLAMPED.items():
            if name in chosen:
                chosen[name] = min(max(chosen[name], smallest), largest)
        # llama-server takes its own base for one that it cannot use.
        if chosen.get("dry_base", 1.0) < 1.0:
            del chosen["dry_base"]
        changes = {_NAMES.get(name, name): value for name, value in chosen.items()}
        if self.dry_sequence_breakers is not None:
            # Halves of surrogate pairs are text for JSON, but never in a vocabulary.
            texts = (text.encode("utf-8", "replace").decode() for text in self.dry_sequence_breakers)
            changes["dry_sequence_breakers"] = tuple(texts)
        if self.samplers is not None:
            changes["samplers"] = _samplers(self.samplers)
        if self.logit_bias is not None:
            changes["logit_bias"] = read_logit_bias(self.logit_bias, service.model.tokenizer)
        defaults = service.options.sampler
        changes["seed"] = _seed(changes.get("seed", defaults.seed))
        # Not dataclasses.replace: mypy cannot check its keys either, and this names what is wrong.
        try:
            return SamplerOptions(**{**vars(defaults), **changes})
        except UsageError as error:
            raise invalid_request(_by_field(str(error))) from error

    def constraint(self, service: Service) -> Callable[[], Constraint] | None:
        """What `grammar` asks for, or else `json_schema`, or else the server's flags.

        An empty schema is any object, as with llama-server.
        """
        grammar, schema = self.grammar, self.json_schema
        if not grammar and schema is None:
            grammar, schema = service.options.form.grammar, service.options.form.json_schema
        name = "grammar" if grammar else "json_schema"
        try:
            if grammar:
                return service.model.grammars.gbnf(grammar)
            if schema is not None:
                return service.model.grammars.json_schema(schema or {"type": "object"})
        except PowerInferError as error:
            raise invalid_request(f"Field '{name}': {error}") from error
        return None

    def _slot(self, n_slots: int) -> int:
        """Wherever it is: clients that count on more slots get one of these, as with llama-server."""
        if self.id_slot is None:
            return -1
        return self.id_slot % n_slots if self.id_slot >= 0 else self.id_slot

    def _preserved(self, tokenizer: Tokenizer) -> frozenset[int]:
        found = [tokenizer.encode(text, add_special=False) for text in self.preserved_tokens or ()]
        return frozenset(ids[0] for ids in found if len(ids) == 1)


def copies_of(task: CompletionTask, n: int) -> list[CompletionTask]:
    """The task and n - 1 others, each with a seed of its own, in any slot: one cannot hold two texts at once.

    What a task is made of is read once, however many copies there are: a client chooses both.
    """
    seeds = (_seed(task.sampler.seed, copy) for copy in range(1, n))
    others = (replace(task, sampler=replace(task.sampler, seed=seed), id_slot=-1) for seed in seeds)
    return [task, *others]


def _seed(seed: int, copy: int = 0) -> int:
    return -1 if seed in {-1, _RANDOM_SEED} else (seed + copy) % _RANDOM_SEED


def _samplers(value: list[str] | str) -> tuple[str, ...]:
    """Those that are known: clients send llama.cpp's whole list, old and new, and llama-server passes over the rest."""
    parse = parse_sampler_sequence if isinstance(value, str) else parse_samplers
    names: tuple[str, ...] = ()
    for one in value:
        try:
            names += parse(one)
        except UsageError:
            continue
    name, times = max(Counter(names).items(), key=lambda one: one[1], default=("", 0))
    if times > _MOST_TIMES:
        raise invalid_request(f"Field 'samplers': {name} must be there at most {_MOST_TIMES} times, got {times}")
    return names


def _by_field(message: str) -> str:
    """SamplerOptions' words with the request's field instead of the command line's flag."""
    flag, _, rest = message.partition(" ")
    flag, colon = flag.rstrip(":"), ":" * flag.endswith(":")
    return f"Field '{_FLAGS.get(flag, flag.removeprefix('--').replace('-', '_'))}'{colon} {rest}"
