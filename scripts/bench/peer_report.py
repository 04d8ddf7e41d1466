"""What `peer.py` writes: a Markdown table, a plot, and all samples as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from scripts.bench.peer_cases import Figure, Measure, Run, Sample

__all__ = ["markdown", "plot", "to_json"]


def markdown(figures: Sequence[Figure], about: str) -> str:
    """The table, targets that were missed included."""
    head = ["what", "ours", "llama.cpp", "ratio (lowest to highest)", "target", "", "of bandwidth"]
    rows = [head, ["---"] * len(head), *map(_cells, figures)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{about}\n\n{table}\n"


def _cells(figure: Figure) -> list[str]:
    measure = figure.case.measure
    theirs = "-" if figure.theirs is None else _value(figure.theirs, measure)
    if measure is Measure.RUNG:
        theirs = f"{theirs} (ours, best rung)"
    share = figure.share_of_bandwidth
    return [
        figure.case.what,
        _value(figure.ours, measure),
        theirs,
        f"{figure.ratio:.2f} ({figure.lowest:.2f} to {figure.highest:.2f})",
        f"{figure.case.target:g}",
        "met" if figure.met else "missed",
        "-" if share is None else f"{share:.0%}",
    ]


def _value(value: float, measure: Measure) -> str:
    return f"{value:.0%}" if measure is Measure.DEPTH else f"{value:.1f} tokens/s"


def plot(figures: Sequence[Figure], path: Path, about: str) -> None:
    """A bar for each case, its target as a mark. Needs matplotlib."""
    import matplotlib.pyplot as plt

    names = [figure.case.what for figure in figures]
    ratios = [figure.ratio for figure in figures]
    errors = [
        [max(figure.ratio - figure.lowest, 0) for figure in figures],
        [max(figure.highest - figure.ratio, 0) for figure in figures],
    ]
    plt.switch_backend("Agg")
    chart, axes = plt.subplots(figsize=(9, 0.45 * len(figures) + 1.4), layout="constrained")
    axes.barh(names, ratios, xerr=errors, color=["#4c9f70" if figure.met else "#c98b5b" for figure in figures])
    axes.scatter([figure.case.target for figure in figures], names, marker="|", s=300, color="black", zorder=3)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("ratio to llama.cpp (black: target)")
    axes.set_title(about, fontsize=8)
    chart.savefig(path, dpi=130)
    plt.close(chart)


def to_json(figures: Sequence[Figure], samples: Mapping[Run, Sequence[Sample]], about: str) -> str:
    """Everything that was measured."""
    return json.dumps(
        {
            "about": about,
            "figures": [
                {"name": f.case.name, "target": f.case.target, "ratio": f.ratio, "met": f.met}
                | {"ours": f.ours, "theirs": f.theirs, "share_of_bandwidth": f.share_of_bandwidth}
                | {"lowest": f.lowest, "highest": f.highest, "measure": f.case.measure}
                for f in figures
            ],
            "samples": [asdict(run) | {"rounds": [asdict(s) for s in found]} for run, found in samples.items()],
        },
        indent=1,
    )
