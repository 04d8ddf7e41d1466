"""What a model can gain from being made sparse, told before anything long is done."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any

from powerinfer_cli.model import Activation, Model
from powerinfer_cli.model.blocks import leaves
from powerinfer_cli.runtime.threads import default_threads
from solver.predictor import ReadingSpeed
from solver.verdict.estimate import LayerEstimate

__all__ = ["LEAST_GAIN", "Kind", "Verdict", "WorkRates", "always_read", "bits_of", "kind_of"]

LEAST_GAIN = 0.05  # of tokens a second, below which nothing is begun
UNSTEADY = 0.3  # of a token's time, from which on the spread of half of them is said
MANY_BITS = 5.6  # of a weight, from which on a smaller file is an advice


class Kind(StrEnum):
    """Of a model, as far as sparsity goes."""

    PREDICTED = "a PowerInfer file with predictors"
    EXACT_ZEROS = "neurons are exactly 0 or not"
    GRADED = "no neuron is ever exactly 0"
    EXPERTS = "experts, of which a router chooses a few for each token"


def kind_of(model: Model) -> Kind:
    """By who chooses what is active, and by its activation."""
    if model.has_experts:
        return Kind.EXPERTS
    if model.config.sparse:
        return Kind.PREDICTED
    return Kind.EXACT_ZEROS if model.config.activation.has_exact_zeros else Kind.GRADED


@dataclass(frozen=True)
class WorkRates:
    """How fast a model is read and its predictors are made. reading: seconds of a token. training: of a layer, from so
    many `tokens`; `fixed`: tokens that would take as long as what does not depend on them. graded: without exact zeros.
    """

    reading: float
    training: float
    tokens: int
    layers: int
    graded: bool
    fixed: float = 0.0

    def training_on(self, tokens: int) -> float:
        """Seconds of all layers."""
        return self.layers * self.training * (self.fixed + tokens) / (self.fixed + self.tokens)


@dataclass(frozen=True)
class Verdict:
    """tokens: that were looked at. density: the share of neurons kept, of a model without zeros; loss: what it costs in
    perplexity with perfect knowledge, None where that was not measured.

    bytes_*: of a token, as a whole: now; with the predictors that are to be expected; with some that are never wrong;
    with turned down matrices and no predictors. down, down_loss: the type of turned down matrices, and by how much that
    moves their numbers, the worst of those that were looked at. dense, sparse: tokens a second, by costs. measured: of
    the dense model here; expected: of the sparse one, where some layers were decoded with predictors: by costs, with
    the dense model's as measured, and sparse FFNs that take `rows` times as long again. others: cores that other
    programs kept busy. bits: of a weight. reading, training: seconds of a token, and of a layer's predictor, as they
    were tried; alone: of the latter, had nothing else been at work; fixed: as `WorkRates` has it. speed: of this
    machine, None for others.
    """

    kind: Kind
    activation: Activation
    layers: tuple[LayerEstimate, ...]
    tokens: int
    density: float | None
    loss: float | None
    bytes_now: float
    bytes_sparse: float
    bytes_best: float
    bytes_turned: float
    down: str
    down_loss: float
    dense: float
    sparse: float
    measured: float | None
    spread: float | None
    others: float | None
    machine: str
    bits: float
    threads: int
    reading: float
    training: float
    alone: float
    fixed: float
    speed: ReadingSpeed | None = None
    expected: float | None = None
    rows: float = 1.0

    @property
    def rates(self) -> WorkRates:
        graded = self.density is not None
        return WorkRates(self.reading, self.training, self.tokens, len(self.layers), graded, self.fixed)

    @property
    def gain(self) -> float:
        """Of tokens a second, as a share."""
        now, sparse = self.speeds()
        return sparse / now - 1

    @property
    def pays(self) -> bool:
        return self.gain >= LEAST_GAIN

    @property
    def active(self) -> float:
        """Mean share of active neurons."""
        return fmean(layer.density for layer in self.layers)

    @property
    def predicted(self) -> float:
        """Mean share of neurons that predictors let through."""
        return fmean(layer.predicted for layer in self.layers)

    @property
    def slowness(self) -> float:
        """How many times as long as its costs say the dense model takes; 1 where it was not measured."""
        return self.dense / (self.measured or self.dense)

    def speeds(self) -> tuple[float, float]:
        """Tokens a second now and sparse: as measured, where it was, else by as much faster as costs say."""
        now = self.measured or self.dense
        return now, self.expected or now * self.sparse / self.dense

    def lines(self) -> list[str]:
        """For people: what was found, before the sentence that says what comes of it."""
        low, high = min(x.density for x in self.layers), max(x.density for x in self.layers)
        now, sparse = self.speeds()
        which = "are active" if self.density is None else "are kept, the largest"
        return [
            f"verdict: {self.activation.value}, {self.kind}; {self.tokens:,} tokens looked at",
            f"  {self.active:.1%} of the neurons {which} (by layer {low:.1%} to {high:.1%})" + self._cost(),
            *self._by_layer(),
            f"  predictors let {self.predicted:.1%} through; {sum(x.sparse for x in self.layers)} of "
            f"{len(self.layers)} layers {'are faster' if self.speed else 'read less'} with one",
            f"  a token reads {self.bytes_now / 1e6:,.1f} MB now, {self.bytes_sparse / 1e6:,.1f} MB with predictors "
            f"({self.bytes_best / 1e6:,.1f} MB, were they never wrong)",
            *self._turned(),
            f"  tokens/s, {self.machine}: {now:,.1f} now{self._measured()}, {sparse:,.1f} with predictors"
            + (" (measured in some layers)" if self.expected else ""),
        ]

    def _measured(self) -> str:
        if self.measured is None:
            return ""
        if self.spread is None or self.spread < UNSTEADY:
            return " (measured)"
        share = f"{self.spread:.0%}" if self.spread < 1 else "more than 100%"
        return f" (measured; of half of the tokens the times differ by {share}, as on a busy machine)"

    def _by_layer(self) -> list[str]:
        """Where neurons say so themselves."""
        if self.density is not None or len(self.layers) == 1:
            return []
        return ["  by layer, %: " + " ".join(f"{100 * layer.density:.0f}" for layer in self.layers)]

    def _turned(self) -> list[str]:
        if not self.down_loss:
            return []
        return [f"  down matrices become {self.down} as they are turned; their numbers move by {self.down_loss:.1%}"]

    def _cost(self) -> str:
        return "" if self.loss is None else f": {self.loss:+.1%} perplexity, were they always the right ones"

    def sentence(self, *, forced: bool = False) -> str:
        """In one line, what follows. forced: it goes on all the same."""
        if self.pays:
            return f"worth it: {self.gain:+.0%} tokens/s are to be expected"
        gain = "no more" if self.gain < 0.005 else f"only {self.gain:+.0%}"
        found = f"not worth it: {gain} tokens/s are to be expected{self._why()}. {self._instead()}"
        return found if forced else f"{found}. --force goes on all the same"

    def _why(self) -> str:
        if self.kind is Kind.GRADED:
            costs = "" if self.loss is None else f" (without the others {self.loss:+.1%} perplexity; fewer cost more)"
            return (
                f", as {self.activation.value} makes no zeros: to find the largest {self.active:.0%} of the "
                f"neurons{costs}, predictors let {self.predicted:.0%} through"
            )
        if self.active > 1 / 2:
            return f", as {self.active:.0%} of the neurons are active"
        if self.speed and not any(layer.sparse for layer in self.layers):
            return ", as asking predictors and reading rows here and there takes longer than reading all, in each layer"
        spared = 1 - self.bytes_sparse / self.bytes_now
        if spared >= LEAST_GAIN:
            return f", as reading {spared:.0%} less is outweighed by asking predictors, and by rows here and there"
        return ", as predictors read as much as they spare"

    def _instead(self) -> str:
        turned = (self.bytes_now - self.bytes_turned) / self.bytes_now
        helps = []
        if turned >= LEAST_GAIN and self._turned_gains():
            helps.append(f"--merge FILE --no-predictors ({turned:.0%} fewer bytes a token, the same text)")
        if self.bits > MANY_BITS:
            helps.append(f"a smaller file of this model, as Q4_K_M ({self.bits:.1f} bits a weight now)")
        if self.threads < default_threads():
            helps.append(f"more threads (-t {default_threads()})")
        if self.kind is Kind.GRADED:
            helps.append("a ReLU model (powerinfer download --list)")
        if not helps:
            helps.append("nothing but a smaller model")
        return f"What helps instead: {', or '.join(helps)}"

    def _turned_gains(self) -> bool:
        """Whether turned down matrices make a token faster. Rows that follow one another are read no faster than others
        of small models, so all are counted so.
        """
        if self.speed is None:
            return True
        speed = self.speed
        now = sum(layer.bytes_now / speed.dense for layer in self.layers)
        turned = sum(layer.bytes_turned / speed.scattered + speed.fixed for layer in self.layers)
        return turned < (1 - LEAST_GAIN) * now

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Verdict":
        """Raises KeyError, TypeError, ValueError: it is none."""
        layers = tuple(LayerEstimate(**layer) for layer in record["layers"])
        kinds = {"kind": Kind(record["kind"]), "activation": Activation(record["activation"])}
        speed = record["speed"]
        return cls(**{**record, **kinds, "layers": layers, "speed": speed and ReadingSpeed(**speed)})

    def data(self) -> dict[str, Any]:
        """For programs."""
        of_down = ("down", "down_loss", "others")
        names = ("tokens", "density", "loss", "bytes_now", "bytes_sparse", "bytes_best", "bytes_turned")
        return {
            "kind": self.kind.name.lower(),
            "activation": self.activation.value,
            **{name: getattr(self, name) for name in (*names, *of_down)},
            "active": self.active,
            "predicted": self.predicted,
            "tokens_per_second": {
                "dense": self.dense,
                "sparse": self.sparse,
                "measured": self.measured,
                "expected": self.speeds()[1],
                "spread": self.spread,
            },
            "gain": self.gain,
            "pays": self.pays,
            "says": self.sentence(),
            "layers": [asdict(layer) for layer in self.layers],
        }


def bits_of(model: Model) -> float:
    """A weight of a matrix, on average."""
    matrices = [one for layer in model.layers for one in leaves(layer)[0]]
    n_bytes, numbers = sum(one.nbytes for one in matrices), sum(one.n_elements for one in matrices)
    return float(8 * n_bytes / numbers)


def always_read(model: Model) -> int:
    """Bytes of a token besides the FFNs: attention, norms and the head."""
    whole = nbytes(model.head) + sum(nbytes(layer) for layer in model.layers)
    return whole - sum(nbytes(layer.ffn) for layer in model.layers)


def nbytes(block: Any) -> int:
    """Of all leaves."""
    return sum(int(one.nbytes) for group in leaves(block) for one in group)
