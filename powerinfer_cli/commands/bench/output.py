"""Results of `powerinfer bench` as they come: a Markdown table, CSV, JSON, or JSON lines."""

import csv
import io
import json
from collections.abc import Callable
from enum import StrEnum

from powerinfer_cli.commands.bench.result import Result

__all__ = ["Format", "Printer", "printer"]

Write = Callable[[str], None]


class Format(StrEnum):
    """Of the output."""

    MD = "md"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"


class Printer:
    """Writes JSON lines; other formats override what differs."""

    def __init__(self, write: Write) -> None:
        self.write = write
        self.count = 0

    def begin(self) -> None:
        """Before the first result."""

    def add(self, result: Result) -> None:
        self.row(result)
        self.count += 1

    def row(self, result: Result) -> None:
        self.write(json.dumps(result.fields() | result.samples()) + "\n")

    def end(self) -> None:
        """After the last one, or after the last that there was time for."""


class _JSON(Printer):
    def begin(self) -> None:
        self.write("[")

    def row(self, result: Result) -> None:
        text = json.dumps(result.fields() | result.samples(), indent=2)
        indented = "\n".join("  " + line for line in text.splitlines())
        self.write(("," if self.count else "") + "\n" + indented)

    def end(self) -> None:
        self.write("\n]\n")


class _CSV(Printer):
    def row(self, result: Result) -> None:
        fields = result.fields()
        if self.count == 0:
            self.write(_csv_line(list(fields)))
        self.write(_csv_line(["" if value is None else value for value in fields.values()]))


def _csv_line(values: list[object]) -> str:
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(values)
    return line.getvalue()


# Heading, width (negative: to the left), value.
_COLUMNS: list[tuple[str, int, Callable[[Result], str]]] = [
    ("model", -28, lambda r: r.facts.model_type),
    ("size", 10, lambda r: _size(r.facts.model_size)),
    ("params", 10, lambda r: _params(r.facts.model_n_params)),
    ("backend", -7, lambda r: r.where.backends),
    ("threads", 7, lambda r: str(r.setup.n_threads)),
    ("n_batch", 7, lambda r: str(r.setup.n_batch)),
    ("n_ubatch", 8, lambda r: str(r.setup.n_ubatch)),
    ("type_k", 6, lambda r: r.setup.type_k),
    ("type_v", 6, lambda r: r.setup.type_v),
    ("rung", -4, lambda r: r.how["rung"]),
    ("cpu_mask", 8, lambda r: r.how["cpu_mask"]),
    ("cpu_strict", 10, lambda r: str(int(r.how["cpu_strict"]))),
    ("repack", 6, lambda r: str(int(r.how["repack"]))),
    ("mlock", 5, lambda r: str(int(r.how["mlock"]))),
    ("reference", 9, lambda r: str(int(r.how["reference"]))),
    ("spec_type", -9, lambda r: r.how["spec_type"]),
    ("accepted", 11, lambda r: f"{r.drafted.accepted} of {r.drafted.proposed}"),
    ("test", 15, lambda r: r.test.name),
    ("t/s", 20, lambda r: f"{r.avg_ts:.2f} \u00b1 {r.stddev_ts:.2f}"),
    ("MB/token", 8, lambda r: _number(r.bytes_per_token, 1e-6, ".1f")),
    ("GB/s", 6, lambda r: _number(r.bytes_per_second, 1e-9, ".1f")),
    ("limit", 6, lambda r: _number(r.bandwidth, 1e-9, ".1f")),
    ("of limit", 8, lambda r: _number(r.share_of_bandwidth, 1, ".0%")),
    ("active", 6, lambda r: _number(r.active, 1, ".1%")),
    ("predicted", 9, lambda r: _number(r.predicted, 1, ".1%")),
]


_OPTIONAL = {
    "n_batch",
    "n_ubatch",
    "type_k",
    "type_v",
    "rung",
    "cpu_mask",
    "cpu_strict",
    "repack",
    "mlock",
    "reference",
    "spec_type",
    "accepted",
}


class _Markdown(Printer):
    """`optional` columns are left out unless named: they are the same in every row."""

    def __init__(self, write: Write, optional: set[str]) -> None:
        super().__init__(write)
        self._columns = [column for column in _COLUMNS if column[0] not in _OPTIONAL - optional]

    def begin(self) -> None:
        self.write(self._line([_padded(heading, width) for heading, width, _ in self._columns]))
        self.write(self._line(["-" * (abs(w) - 1) + ("-" if w < 0 else ":") for _, w, _ in self._columns]))

    def row(self, result: Result) -> None:
        self.write(self._line([_padded(value(result), width) for _, width, value in self._columns]))

    def _line(self, cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |\n"


def printer(kind: Format, write: Write, varied: set[str]) -> Printer:
    """`varied`: fields that differ among the tests, or from their default; a table shows them."""
    match kind:
        case Format.MD:
            return _Markdown(write, varied)
        case Format.CSV:
            return _CSV(write)
        case Format.JSON:
            return _JSON(write)
        case Format.JSONL:
            return Printer(write)


def _padded(text: str, width: int) -> str:
    return text.ljust(-width) if width < 0 else text.rjust(width)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.2f} MiB"


def _params(n: int) -> str:
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.2f} M"


def _number(value: float | None, factor: float, style: str) -> str:
    return "-" if value is None else format(value * factor, style)
