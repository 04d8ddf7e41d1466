"""A report as one page that needs nothing from elsewhere, in light and dark."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from powerinfer_cli.files import replacing
from solver.report.figures import PARTS, Floats, budget_bars, coverage_curve, heat_map

__all__ = ["report_page", "write_page"]

_STYLE = """
:root { color-scheme: light dark; --page: #fbfbf9; --ink: #1d1f21; --dim: #666b70; --line: #d9d9d4; --free: #ebebe6;
  --heat: #b3471d; --mark: #1d1f21; --curve: #1f6f8b;
  --attention: #4269a5; --predictor: #d08a2e; --head: #7a5ba6; --kv: #3d8f6e; --scratch: #9a9a94; --neurons: #b3471d; }
@media (prefers-color-scheme: dark) { :root { --page: #16181a; --ink: #e8e6e1; --dim: #9da2a6; --line: #35393c;
  --free: #25292c; --heat: #ff8a57; --mark: #ffffff; --curve: #6cc3dd;
  --attention: #7fa3dc; --predictor: #e5b163; --head: #b399db; --kv: #6cc7a1; --scratch: #7d7f7c;
  --neurons: #ff8a57; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 760px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 17px; margin: 36px 0 8px; }
p, .dim { color: var(--dim); margin: 4px 0; } svg { display: block; width: 100%; height: auto; margin: 8px 0; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg text.dim { fill: var(--dim); }
.figures { display: flex; flex-wrap: wrap; gap: 12px 32px; margin: 20px 0; }
.figures div { min-width: 96px; } .figures b { display: block; font-size: 24px; font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 8px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--dim); font-weight: 500; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { white-space: normal; }
.free { fill: var(--free); } .mark { stroke: var(--mark); stroke-width: 2; }
.heat { fill: var(--heat); shape-rendering: crispEdges; }
.grid { stroke: var(--line); } .band { fill: var(--curve); fill-opacity: .18; }
.curve { fill: none; stroke: var(--curve); stroke-width: 2; } .dot { fill: var(--heat); stroke: var(--page); }
.key { display: flex; flex-wrap: wrap; gap: 2px 16px; color: var(--dim); font-size: 13px; }
.key i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
"""


def report_page(data: dict[str, Any], frequencies: Sequence[Floats] | None) -> str:
    """`data`: as `report_data` makes it. frequencies: of each layer's neurons, 0..1; None where nobody knows them."""
    model, plan = data["model"], data["plan"]
    kind = "sparse" if model["sparse"] else "dense"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(model['name'])}: placement</title><style>{_style()}</style></head><body><main>",
        f"<h1>{escape(model['name'])}</h1>",
        f"<p>{escape(model['architecture'])}, {kind}, {model['type']}, {model['layers']} layers of {model['neurons']} "
        f"neurons</p><p>{escape(model['path'])}</p>",
    ]
    if plan:
        parts += [_headline(plan), "<h2>Memory</h2>", budget_bars(plan["devices"]), _key(), _device_table(plan)]
    hot = [layer["hot"] for layer in plan["layers"]] if plan else [0] * model["layers"]
    if frequencies is not None:
        parts += [
            "<h2>How often neurons are active</h2>",
            "<p>A row is a layer, its neurons the most active first. The mark is where the hot ones end.</p>",
            heat_map(frequencies, hot),
            "<h2>What the most active neurons cover</h2>",
            "<p>The mean of all layers; the band reaches from the least to the best covered layer.</p>",
            coverage_curve(frequencies, hot),
        ]
    if data["predictors"] and data["predictors"]["layers"]:
        parts += ["<h2>Predictors</h2>", _predictor_table(data)]
    if plan:
        parts += ["<h2>Layers</h2>", "<p>Predicted times of one token.</p>", _layer_table(plan)]
        machine = plan["machine"]
        measured = "Measured costs" if machine["source"] == "measured" else "Costs from data sheets, not measured"
        parts.append(f"<p>{measured}: {escape(', '.join([machine['cpu'], *machine['gpus']]))}.</p>")
    return "".join([*parts, "</main></body></html>\n"])


def write_page(path: Path, page: str) -> None:
    """Raises PowerInferError: it cannot be written; an old page is then as it was."""
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _style() -> str:
    return _STYLE + "".join(f".part-{name} {{ fill: var(--{name}); }} " for name in PARTS)


def _headline(plan: dict[str, Any]) -> str:
    neurons = sum(layer["neurons"] for layer in plan["layers"])
    hot = sum(layer["hot"] for layer in plan["layers"])
    active = sum(layer["active"] for layer in plan["layers"]) or 1.0
    covered = sum(layer["active"] * layer["covered"] for layer in plan["layers"])
    figures = {
        "tokens a second, predicted": f"{plan['tokens_per_second']:.1f}",
        "of the neurons on the GPU": f"{hot / neurons:.0%}",
        "of the activations there": f"{covered / active:.0%}",
        "above the least time for these layers": f"{plan['gap']:.1%}",
    }
    others = ", ".join(f"{escape(name)} {speed:.1f}" for name, speed in plan["others"].items())
    lines = [f"<div><b>{value}</b>{label}</div>" for label, value in figures.items()]
    remarks = "".join(f"<p>{escape(remark)}</p>" for remark in plan["remarks"])
    compared = f"<p>Other ways to plan, in tokens a second: {others}.</p>" if others else ""
    return f'<div class="figures">{"".join(lines)}</div>{remarks}{compared}'


def _key() -> str:
    entries = (f'<span><i style="background:var(--{name})"></i>{label}</span>' for name, label in PARTS.items())
    free = '<span><i style="background:var(--free)"></i>left of the budget</span>'
    return f'<div class="key">{"".join(entries)}{free}</div>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _device_table(plan: dict[str, Any]) -> str:
    names = [*PARTS, "total"]
    rows = [[device["name"], *(f"{device[name] / (1 << 20):,.1f}" for name in names)] for device in plan["devices"]]
    return _table(["MiB", *(PARTS.get(name, name) for name in names)], rows)


def _layer_table(plan: dict[str, Any]) -> str:
    rows = [
        [
            str(layer["layer"]),
            "memory" if layer["device"] < 0 else f"GPU {layer['device']}",
            f"{layer['hot']:,}",
            f"{layer['hot'] / layer['neurons']:.1%}",
            f"{layer['covered']:.1%}",
            f"{layer['before_ms']:.3f}",
            f"{layer['gpu_ms']:.3f}",
            f"{layer['cpu_ms']:.3f}",
            f"{layer['total_ms']:.3f}",
        ]
        for layer in plan["layers"]
    ]
    heads = ["layer", "on", "hot", "of neurons", "covered", "before FFN, ms", "GPU, ms", "CPU, ms", "total, ms"]
    return _table(heads, rows)


def _predictor_table(data: dict[str, Any]) -> str:
    rows = [
        [
            str(layer["layer"]),
            str(layer["rank"]),
            f"{layer['recall']:.1%}",
            f"{layer['predicted_density']:.1%}",
            f"{layer['true_density']:.1%}",
        ]
        for layer in data["predictors"]["layers"]
    ]
    table = _table(["layer", "rank", "recall", "predicted active", "active"], rows)
    quality = data["quality"]
    if not quality:
        return table
    return (
        f"<p>Perplexity on {quality['tokens']:,} held-out tokens: {quality['perplexity']:.4f}, with every neuron "
        f"{quality['perplexity_dense']:.4f} ({quality['loss']:+.2%} ± {quality['error']:.2%}).</p>{table}"
    )
