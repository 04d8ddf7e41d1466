"""What `powerinfer solve` has found: tables for people, JSON for programs, a page with figures."""

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from powerinfer_cli.commands.solve.console import make_console
from powerinfer_cli.commands.solve.flags import ReportFlags
from powerinfer_cli.commands.solve.job import Outcome
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.placement import model_fingerprint, shown_bytes
from solver.placing import activity_from
from solver.report import PARTS, report_data, report_page, write_page
from solver.run import SolveResult

__all__ = ["show", "tables"]


def show(
    gguf: GGUFFile,
    config: ModelConfig,
    found: Outcome,
    merged: Path | None,
    told: ReportFlags,
    write: Callable[[str], object],
) -> None:
    """Raises PowerInferError: the page cannot be written."""
    made = found.made
    data = report_data(
        gguf,
        config,
        model_fingerprint(gguf),
        made,
        found.planned,
        None if made.ended or made.stays_dense else merged,
        found.compared,
    )
    if told.report:
        frequencies = activity_from(made.statistics, made.together).frequencies if made.statistics else None
        write_page(told.report, report_page(data, frequencies))
    if told.json:
        write(json.dumps(data, indent=2) + "\n")
    elif made.ended:
        write("\n".join(_verdict_lines(gguf, made)) + "\n")
    else:
        _show_tables(data)
        if found.compared:
            write(found.compared.line() + "\n")


def _verdict_lines(gguf: GGUFFile, made: SolveResult) -> list[str]:
    if made.verdict is not None:
        return [*made.verdict.lines(), made.verdict.sentence()]
    if made.experts is not None:
        as_it_is = [] if made.experts.pays else [f"run it as it is: powerinfer main -m {gguf.path}"]
        return [*made.experts.lines(), made.experts.sentence(), *as_it_is]
    if made.seen is not None:
        return [*made.seen.lines(), made.seen.sentence()]
    return ["verdict: predictors are there: nothing to judge"]


def _show_tables(data: dict[str, Any]) -> None:
    console = make_console()
    if data["profile"]:
        seen = data["profile"]["tokens"]
        tokens = f"{seen:,} tokens" if seen else "an unknown number of tokens"
        chosen = data["experts"] and f"{data['experts']['chosen']} of {data['experts']['experts']} experts a token"
        active = chosen or f"{data['profile']['density']:.1%} of the neurons active"
        console.print(f"profile: {active}, over {tokens}")
    _show_predictors(console, data)
    plan = data["plan"]
    if plan is None:
        return
    for remark in plan["remarks"]:
        console.print(remark)
    for table in tables(plan, "experts" if data["experts"] else "neurons"):
        console.print(table)
        console.print()
    if plan["policies"]:
        rates = ", ".join(f"{name} {rate:.1%}" for name, rate in plan["policies"]["hit_rates"].items())
        console.print(f"needed experts that are on the GPU, by placement: {rates}", soft_wrap=True)
    others = ", ".join(f"{name} {speed:.1f}" for name, speed in plan["others"].items())
    source = "measured costs" if plan["machine"]["source"] == "measured" else "data sheets, not measured"
    console.print(
        f"predicted: {plan['tokens_per_second']:.1f} tokens/s ({source}), within {plan['gap']:.2%} of the best for "
        "these layers" + (f"; {others}" if others else ""),
        soft_wrap=True,
    )
    if plan["file"]:
        console.print(f"plan: {plan['file']} (found in {plan['seconds']:.1f} s)", soft_wrap=True)


def _show_predictors(console: Console, data: dict[str, Any]) -> None:
    found = data["predictors"]
    if data["density"]:
        console.print(
            f"density: {data['density']['density']:.0%} of the neurons are kept, "
            f"which costs {data['density']['loss']:+.2%} in perplexity"
        )
    if found and found["layers"]:
        console.print(
            f"predictors: recall {found['recall']:.1%}, predicted {found['predicted_density']:.1%} "
            f"for {found['true_density']:.1%} active, ranks {min(r['rank'] for r in found['layers'])} to "
            f"{max(r['rank'] for r in found['layers'])}; {found['folder']}",
            soft_wrap=True,
        )
    quality = data["quality"]
    if quality:
        console.print(
            f"quality: perplexity {quality['perplexity']:.4f} with predictors, {quality['perplexity_dense']:.4f} "
            f"with every neuron: {quality['loss']:+.2%} +/- {quality['error']:.2%}, "
            f"on {quality['tokens']:,} held-out tokens",
            soft_wrap=True,
        )


def tables(plan: dict[str, Any], groups: str = "neurons") -> tuple[Table, Table]:
    """Of a report's plan: what each device holds, and what each layer does. groups: what of it is hot."""
    return _devices(plan, groups), _layers(plan, groups)


def _table(title: str, labels: Sequence[str]) -> Table:
    """Nothing in it is cut, however narrow the terminal: words go on in the next line."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for number, label in enumerate(labels):
        table.add_column(label, justify="right" if number else "left", overflow="fold")
    return table


def _devices(plan: dict[str, Any], groups: str) -> Table:
    """A column for each device: there are fewer of them than of what they hold."""
    devices = plan["devices"]
    table = _table("Memory", ["", *(device["name"] for device in devices)])
    named = PARTS if groups == "neurons" else PARTS | {"predictor": "routers, shared experts", "neurons": groups}
    for name, label in named.items():
        table.add_row(label, *(shown_bytes(device[name]) if device[name] else "-" for device in devices))
    table.add_row("total", *(shown_bytes(device["total"]) for device in devices))
    budgets = [device["budget"] for device in devices]
    table.add_row("budget", *("" if budget is None else shown_bytes(budget) for budget in budgets))
    return table


def _layers(plan: dict[str, Any], groups: str) -> Table:
    """Neighbours that are shown alike share a row."""
    labels = ["layers", "on", "hot", "of all", "covered", "GPU ms", "CPU ms", "all ms"]
    covered = "activations" if groups == "neurons" else "uses"
    table = _table(f"Layers: hot {groups}, {covered} covered by them, times predicted for a token", labels)
    for cells, layers in groupby(plan["layers"], _cells):
        numbers = [layer["layer"] for layer in layers]
        table.add_row(f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else str(numbers[0]), *cells)
    return table


def _cells(layer: dict[str, Any]) -> tuple[str, ...]:
    """A layer as its row shows it, without its number."""
    return (
        "memory" if layer["device"] < 0 else f"GPU {layer['device']}",
        f"{layer['hot']:,}",
        f"{layer['hot'] / layer['neurons']:.1%}",
        f"{layer['covered']:.1%}",
        *(f"{layer[name]:.3f}" for name in ("gpu_ms", "cpu_ms", "total_ms")),
    )
