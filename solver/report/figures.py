"""The figures of a report as inline SVG: budget bars, heat map, coverage curve. Colours are the page's variables."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PARTS", "budget_bars", "coverage_curve", "heat_map"]

Floats = npt.NDArray[np.float64]

PARTS = {
    "attention": "attention and norms",
    "predictor": "predictors",
    "head": "head",
    "kv": "KV cache",
    "scratch": "scratch",
    "neurons": "neurons",
}
WIDTH = 720
COLUMNS = 120  # of the heat map
GIB = 1 << 30


def budget_bars(devices: Sequence[Mapping[str, Any]]) -> str:
    """A bar for each device: its parts one after the other, and what is free of its budget."""
    longest = max((max(device["total"], device["budget"] or 0) for device in devices), default=0) or 1
    scale, height = WIDTH / longest, 56
    parts = [_svg("Memory by device", WIDTH, height * len(devices))]
    for row, device in enumerate(devices):
        top, x = row * height, 0.0
        size = _gib(device["total"]) + (f" of {_gib(device['budget'])}" if device["budget"] is not None else "")
        parts.append(f'<text x="0" y="{top + 14}">{escape(device["name"])}</text>')
        parts.append(f'<text class="dim" x="{WIDTH}" y="{top + 14}" text-anchor="end">{size}</text>')
        if device["budget"]:
            parts.append(
                f'<rect class="free" x="0" y="{top + 20}" width="{device["budget"] * scale:.2f}" height="22"/>'
            )
        for name, label in PARTS.items():
            width = device[name] * scale
            if width > 0:
                gap = min(2.0, width / 2)  # neighbours are told apart without their colours
                parts.append(
                    f'<rect class="part-{name}" x="{x:.2f}" y="{top + 20}" width="{width - gap:.2f}" height="22">'
                    f"<title>{label}: {_gib(device[name])}</title></rect>"
                )
            x += width
    return "".join([*parts, "</svg>"])


def heat_map(frequencies: Sequence[Floats], hot: Sequence[int]) -> str:
    """A row for each layer, its neurons by how often they are active, the most active first; a mark where hot ones end.

    Each cell is the mean of some neurons.
    """
    left, row_height = 34, max(4, min(18, 560 // max(1, len(frequencies))))
    height = row_height * len(frequencies) + 22
    every = max(1, -(-len(frequencies) // 16))
    parts = [_svg("How often neurons are active, by layer", WIDTH, height)]
    for row, values in enumerate(frequencies):
        order = np.sort(values)[::-1]
        cuts = np.unique(np.linspace(0, order.size, min(COLUMNS, order.size) + 1).astype(int))
        means = np.add.reduceat(order, cuts[:-1]) / np.diff(cuts)
        scale, top = (WIDTH - left) / order.size, row * row_height
        if row % every == 0:
            parts.append(
                f'<text class="dim" x="{left - 6}" y="{top + row_height / 2 + 4:.1f}" text-anchor="end">{row}</text>'
            )
        parts.append(f"<g><title>layer {row}: {order.mean():.1%} active, {hot[row] / order.size:.1%} hot</title>")
        for begin, end, mean in zip(cuts[:-1], cuts[1:], means, strict=True):
            if mean > 0.0005:
                x, width, opacity = left + begin * scale, (end - begin) * scale, min(1.0, mean) ** 0.5
                parts.append(
                    f'<rect class="heat" x="{x:.2f}" y="{top}" width="{width:.2f}" height="{row_height - 1}" '
                    f'fill-opacity="{opacity:.2f}"/>'
                )
        if hot[row] > 0:
            x = left + hot[row] * scale
            parts.append(f'<line class="mark" x1="{x:.2f}" x2="{x:.2f}" y1="{top}" y2="{top + row_height - 1}"/>')
        parts.append("</g>")
    parts.append(f'<text class="dim" x="{left}" y="{height - 4}">most active</text>')
    parts.append(f'<text class="dim" x="{WIDTH}" y="{height - 4}" text-anchor="end">least active</text>')
    return "".join([*parts, "</svg>"])


def coverage_curve(frequencies: Sequence[Floats], hot: Sequence[int]) -> str:
    """What share of activations the most active neurons make: the mean of the layers, and from the least to the most.

    A dot is the plan: its share of neurons, and of activations.
    """
    left, top, width, height = 44, 10, 420, 260
    shares = np.linspace(0, 1, 101)
    curves = []
    for values in frequencies:
        running = np.concatenate([[0.0], np.cumsum(np.sort(values)[::-1])])
        curves.append(np.interp(shares * values.size, np.arange(running.size), running / (running[-1] or 1.0)))
    found = np.array(curves)

    def at(x: float, y: float) -> str:
        return f"{left + x * width:.1f},{top + (1 - y) * height:.1f}"

    parts = [_svg("Share of activations by share of neurons", left + width + 20, top + height + 40)]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = at(tick, 0).split(",")[0], at(0, tick).split(",")[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="dim" x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{tick:.0%}</text>')
        parts.append(f'<text class="dim" x="{x}" y="{top + height + 16}" text-anchor="middle">{tick:.0%}</text>')
    high, low = found.max(axis=0), found.min(axis=0)
    band = [at(x, y) for x, y in zip(shares, high, strict=True)]
    band += [at(x, y) for x, y in zip(shares[::-1], low[::-1], strict=True)]
    parts.append(f'<polygon class="band" points="{" ".join(band)}"/>')
    mean = " ".join(at(x, y) for x, y in zip(shares, found.mean(axis=0), strict=True))
    parts.append(f'<polyline class="curve" points="{mean}"/>')
    parts.append(_dot(frequencies, hot, at))
    parts.append(
        f'<text class="dim" x="{left + width / 2}" y="{top + height + 34}" text-anchor="middle">share of neurons</text>'
    )
    return "".join([*parts, "</svg>"])


def _dot(frequencies: Sequence[Floats], hot: Sequence[int], at: Any) -> str:
    everything, neurons = sum(float(v.sum()) for v in frequencies), sum(v.size for v in frequencies)
    placed = sum(hot) / neurons
    covered = sum(float(np.sort(v)[::-1][:count].sum()) for v, count in zip(frequencies, hot, strict=True))
    x, y = at(placed, covered / (everything or 1.0)).split(",")
    label = f"on the GPU: {placed:.0%} of the neurons, {covered / (everything or 1.0):.0%} of the activations"
    corner = at(1, 0.04).split(",")  # a curve of sums from the largest on never comes here
    return (
        f'<circle class="dot" cx="{x}" cy="{y}" r="5"/>'
        f'<text x="{corner[0]}" y="{corner[1]}" text-anchor="end">{label}</text>'
    )


def _svg(title: str, width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width:{width:g}px"><title>{title}</title>'
    )


def _gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB // 16 else f"{count / (1 << 20):.1f} MiB"
