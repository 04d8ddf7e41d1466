"""The way to a verdict: a short text is recorded, predictors are tried in a few layers, costs are measured."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit
from powerinfer_cli.model.turned import down_loss, down_type
from powerinfer_cli.runtime import Engine
from solver.decoding import DEEPEST, Decoding, faster, measure_decoding
from solver.predictor import DensityMeter, ReadingSpeed
from solver.predictor.layer import TrainedPredictor
from solver.predictor.ranks import TrainingWork
from solver.predictor.samples import Samples
from solver.predictor.training import layers_at_once, working_bytes
from solver.profile import ActiveRule, Chunks, made_of
from solver.stages import Place, SolverModel
from solver.state import NAME, SolverState, read_state
from solver.verdict.estimate import Trial, estimate_layers, layer_bytes, try_predictor
from solver.verdict.look import LOOKED_AT, Look, look, short_text, tokens_of
from solver.verdict.speed import MachineCosts, predict_dense, predict_sparse, rows_slowness, slowed
from solver.verdict.tried_decoding import TriedDecoding, decode_with_trials, is_small
from solver.verdict.verdict import Verdict, WorkRates, always_read, bits_of, kind_of

__all__ = ["Judging", "expected_rates", "expected_seconds", "judge", "recorded_verdict"]

STAGE = "verdict"
USUAL = 0.5  # of the neurons of a model without zeros
SECONDS = 2.0  # of decoding
READING, WEIGHING, TRYING = "verdict: reading", "verdict: leaving small neurons out", "verdict: trying predictors"
MEASURING, DECODING = "verdict: measuring this machine", "verdict: decoding with predictors"
WORK, TRIAL_WORK = 1e11, 2e10  # multiplications a second and thread, roughly; of a predictor's trial
TIMING = "verdict: decoding"
MEASURED, DECODED = 15.0, 5.0  # seconds


@dataclass(frozen=True)
class Judging:
    """density: of a model without zeros, None for the usual one. recall: of predictors. machine: measures its costs;
    name: what tells it from others, here: whether it is this one, and gpus: whether any of their memory may be used.
    """

    density: float | None
    recall: float
    machine: Callable[[], MachineCosts]
    name: str
    here: bool = False
    gpus: bool = True


def judge(model: SolverModel, chunks: Chunks, place: Place, wanted: Judging, *, anew: bool = False) -> Verdict:
    """A verdict on a dense model; the one that is recorded in the folder, if it is of the same model, text and wishes,
    unless it is to be made anew.

    Raises PowerInferError.
    """
    pieces = short_text(chunks, model.weights)
    density = None if model.config.activation.has_exact_zeros else wanted.density or USUAL
    made_with = {
        "model": model.fingerprint,
        "text": made_of(pieces),
        "density": density,
        "recall": wanted.recall,
        "machine": wanted.name,
        "threads": model.options.threads[0],
    }
    state = read_state(place.folder)
    kept = None if anew else _recorded(state, made_with)
    if kept is not None:
        model.events.note(f"verdict: as measured before ({state.folder / NAME}); --anew measures again")
        return kept
    found = _judge(model, pieces, density, wanted)
    with suppress(PowerInferError):  # a folder that takes nothing: it is said when there is something to keep
        state.with_stage(STAGE, made_with, found.record())
    return found


def expected_rates(model: SolverModel) -> WorkRates:
    """Roughly, before anything is measured."""
    weights, threads = model.weights, model.options.threads[1]
    tokens, config = tokens_of(weights), model.config
    work = _training_work(model)
    training = work.of_tokens(tokens) / (TRIAL_WORK * min(threads, LOOKED_AT))
    graded = not config.activation.has_exact_zeros
    return WorkRates(weights / (WORK * threads), training, tokens, config.n_layer, graded, work.fixed)


def _training_work(model: SolverModel) -> TrainingWork:
    config = model.config
    return TrainingWork.of(config.n_embd, max(config.n_ff), exact=config.activation.has_exact_zeros)


def expected_seconds(rates: WorkRates) -> dict[str, float]:
    """Of a verdict's parts, by the words of their progress."""
    reading = rates.tokens * rates.reading
    graded = {WEIGHING: 2 * reading} if rates.graded else {}
    trying = min(LOOKED_AT, rates.layers) * rates.training
    return {READING: reading, **graded, MEASURING: MEASURED, TRYING: trying, DECODING: DECODED}


def recorded_verdict(folder: Path, model: str, machine: str | None = None) -> Verdict | None:
    """On a model, by its fingerprint, for a machine, as `Judging` names it, None: any; if a folder has one."""
    state = read_state(folder)
    made_with = state.stages.get(STAGE, {}).get("made_with", {})
    fits = made_with.get("model") == model and (machine is None or made_with.get("machine") == machine)
    return _recorded(state, made_with) if fits else None


def _recorded(state: SolverState, made_with: dict[str, Any]) -> Verdict | None:
    if not state.fits(STAGE, made_with):
        return None
    try:
        return Verdict.from_record(state.found(STAGE))
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class _Reading:
    """What a text shows of a model, in how many seconds; what leaving small neurons out costs, if they are chosen; how
    fast the model decodes, if it is this machine that counts.
    """

    seen: Look
    seconds: float
    loss: float | None
    decoding: Decoding | None


def _read(model: SolverModel, pieces: Chunks, density: float | None, *, here: bool) -> _Reading:
    """The engine's memory is given back: measuring and trials take as much as a small model."""
    engine = model.open_engine()
    model.events.progress(TIMING, 0, 1)
    before = measure_decoding(engine, pieces[0], SECONDS) if here else None
    begin = time.monotonic()
    seen = look(engine, pieces, ActiveRule(density), model.events, READING)
    seconds = time.monotonic() - begin
    model.check_weights()
    loss = None if density is None else _cost(model, engine, pieces, density)
    model.events.progress(MEASURING, 0, 1)
    # Twice, some time apart, as models are compared later: virtual machines are slower for some seconds now and then.
    decoding = None if before is None else faster(before, measure_decoding(engine, pieces[0], SECONDS))
    del engine
    model.forget_engine()
    return _Reading(seen, seconds, loss, decoding)


def _judge(model: SolverModel, pieces: Chunks, density: float | None, wanted: Judging) -> Verdict:
    reading = _read(model, pieces, density, here=wanted.here)
    seen, decoding = reading.seen, reading.decoding
    files = [layer_bytes(layer, model.config) for layer in model.model.layers]
    machine = wanted.machine()
    model.events.progress(MEASURING, 1, 1)
    speed, begin = machine.speed, time.monotonic()
    trials, trained, alone = _try(model, seen, wanted.recall, speed)
    tried_seconds = time.monotonic() - begin
    exact = density is None
    layers = estimate_layers(files, seen.densities, trials, speed, exact=exact)
    dense, sparse = predict_dense(machine), predict_sparse(machine, seen, files, layers, exact=exact)
    expected, rows, pay = None, 1.0, {layer: one for layer, one in trained.items() if layers[layer].sparse}
    if decoding is not None and speed is not None and pay:
        tried_here = _decode(model, pay, _some_of_each(pieces))
        few = [replace(one, sparse=i in pay) for i, one in enumerate(layers)]
        in_few = predict_sparse(machine, seen, files, few, exact=exact)
        rows = rows_slowness(in_few, few, tried_here.dense.seconds / dense.seconds, tried_here.sparse.seconds)
        decoding = faster(decoding, tried_here.dense)
        speed = speed.with_rows(rows)
        layers = estimate_layers(files, seen.densities, trials, speed, exact=exact)  # by what was seen, fewer may pay
        slower = replace(machine, profile=slowed(machine.profile, decoding.seconds / dense.seconds, rows))
        expected = predict_sparse(slower, seen, files, layers, exact=exact).tokens_per_second
    always = always_read(model.model)
    tried = [model.model.layers[layer].ffn.neurons for layer in trials]
    kinds = [down_type(one.down.weight.type, model.config.n_embd) for one in tried]

    def read(parts: Sequence[float]) -> float:
        return always + sum(parts)

    return Verdict(
        kind=kind_of(model.model),
        activation=model.config.activation,
        layers=layers,
        tokens=seen.tokens,
        density=density,
        loss=reading.loss,
        bytes_now=read([layer.bytes_now for layer in layers]),
        bytes_sparse=read([layer.bytes_sparse for layer in layers]),
        bytes_best=read([layer.bytes_best for layer in layers]),
        bytes_turned=read([layer.bytes_turned for layer in layers]),
        down=kinds[0].name,
        down_loss=max(0.0 if down.transposed else down_loss(down.down.weight, fit=CompiledFit()) for down in tried),
        dense=dense.tokens_per_second,
        sparse=sparse.tokens_per_second,
        measured=None if decoding is None else decoding.tokens_per_second,
        spread=None if decoding is None else decoding.spread,
        others=machine.others,
        machine=_machine_name(machine, decoding),
        bits=bits_of(model.model),
        threads=model.options.threads[0],
        reading=reading.seconds / seen.tokens,
        training=tried_seconds / len(trials),
        speed=speed,
        expected=expected,
        rows=rows,
        alone=alone,
        fixed=_training_work(model).fixed,
    )


def _some_of_each(pieces: Chunks) -> list[int]:
    """Of what differs from text to text the mean is wanted."""
    return [token for piece in pieces for token in piece[: max(1, DEEPEST // len(pieces))]]


def _decode(model: SolverModel, trained: Mapping[int, TrainedPredictor], ids: Sequence[int]) -> TriedDecoding:
    """With those that were tried, in turns with the dense model."""

    def on_round(done: int, total: int) -> None:
        model.events.progress(DECODING, done, total)

    on_round(0, 1)
    return decode_with_trials(model.model, model.engine_options(), trained, ids, on_round)


def _cost(model: SolverModel, engine: Engine, pieces: Chunks, density: float) -> float:
    """In perplexity, with the really largest neurons."""
    model.events.progress(WEIGHING, 0, 2)
    meter = DensityMeter(engine, pieces)
    model.events.progress(WEIGHING, 1, 2)
    loss = meter.loss(density)
    model.events.progress(WEIGHING, 2, 2)
    return loss


def _try(
    model: SolverModel, seen: Look, recall: float, speed: ReadingSpeed | None
) -> tuple[dict[int, Trial], dict[int, TrainedPredictor], float]:
    """Layers side by side, each by a thread: on busy cores threads that share one would wait for each other. What was
    tried is kept of small models. Also seconds of a layer, by what processors spent on it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(min(model.options.threads[1], len(seen.samples)))
    workers = layers_at_once(model.model.nbytes, max(map(_working_bytes, seen.samples.values())))
    model.events.progress(TRYING, 0, len(seen.samples))
    trials: dict[int, Trial] = {}
    trained: dict[int, TrainedPredictor] = {}
    spent = 0.0
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        tried = {
            pool.submit(_timed, try_predictor, model.model.layers[layer], model.config, samples, recall, speed): layer
            for layer, samples in seen.samples.items()
        }
        for future in as_completed(tried):
            layer, (found, seconds) = tried[future], future.result()
            spent += seconds
            trials[layer] = Trial.of(found.report)
            if is_small(model.model):
                trained[layer] = found
            model.events.progress(TRYING, len(trials), len(seen.samples))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
    return trials, trained, spent / len(trials) / workers


def _working_bytes(samples: Samples) -> int:
    return working_bytes(samples.n_embd, samples.n_ff, samples.inputs.nbytes + samples.active.nbytes)


def _timed(work: Callable[..., TrainedPredictor], *given: Any) -> tuple[TrainedPredictor, float]:
    """With the seconds that this thread spent on it, not those that it waited for a core."""
    begin = time.thread_time()
    return work(*given), time.thread_time() - begin


def _machine_name(machine: MachineCosts, decoding: Decoding | None) -> str:
    if decoding is not None:
        return "this machine"
    names = [machine.profile.cpu.name, *(gpu.name for gpu in machine.profile.gpus[: len(machine.budgets)])]
    return ", ".join(names)
