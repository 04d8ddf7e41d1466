"""An Apple GPU of which only the rules are here: tensors that say they are on "mps", lie in main memory and refuse what
such a GPU refuses: numbers of 64 bits with a fraction, operations without a kernel there, operands on two devices.

Which operations have kernels is what torch's own table of functions says, which comes with torch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchgen
import yaml
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.helpers.dispatch import DispatchMode

__all__ = ["SimulatedMPS", "simulated_mps"]

MPS = torch.device("mps")
META = torch.device("meta")  # what torch's own code is told: this torch would refuse to know mps
REFUSED = (torch.float64, torch.complex64, torch.complex128)
ACROSS = ("aten::_to_copy", "aten::copy_")  # the way from a device to another


class _OnMPS(Tensor):
    """`here`: the same in main memory."""

    here: Tensor
    device = MPS  # type: ignore[assignment]  # torch's is a property

    @staticmethod
    def __new__(cls, here: Tensor) -> "_OnMPS":
        made: _OnMPS = Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=META
        )
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(function, args, kwargs or {})


class _Names(TorchFunctionMode):
    """What Python calls, before torch's own code sees it."""

    def __torch_function__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        def renamed(one: Any) -> Any:
            return META if isinstance(one, torch.device | str) and str(one) == "mps" else one

        if function is torch.device:
            return function(*args, **(kwargs or {}))
        if function is Tensor.tolist:  # subclasses have none
            return function(args[0].cpu())
        if function is torch.tensor:  # no mode sees how it fills them
            others = dict(kwargs or {})
            named = others.pop("device", None)
            made = function(*args, **others)
            return made if named is None else made.to(renamed(named))
        return function(*_mapped(renamed, tuple(args)), **_mapped(renamed, dict(kwargs or {})))


class _Mode(DispatchMode):
    """Also for what makes tensors out of none."""

    def __init__(self) -> None:
        super().__init__()
        self.done: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if _there(function, args, kwargs or {}):
            self.done.add(str(function))
        return _run(function, args, kwargs or {})


def _leaves(*trees: Any) -> Iterator[Any]:
    """Of lists, tuples and keywords, which is all that operations take: torch's own walk is most of a test's time."""
    for one in trees:
        if type(one) in (list, tuple):
            yield from _leaves(*one)
        elif type(one) is dict:
            yield from _leaves(*one.values())
        else:
            yield one


def _mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    kind = type(tree)
    if kind is dict:
        return {key: _mapped(change, one) for key, one in tree.items()}
    return kind(_mapped(change, one) for one in tree) if kind in (list, tuple) else change(tree)


def _there(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation's result is on the GPU."""
    named = kwargs.get("device")
    return any(isinstance(one, _OnMPS) for one in _leaves(args, kwargs)) if named is None else named == META


def _run(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    name, there = function._schema.name, _there(function, args, kwargs)
    tensors = [one for one in _leaves(args, kwargs) if isinstance(one, Tensor)]
    on_gpu = [isinstance(one, _OnMPS) for one in tensors]
    if (there or any(on_gpu)) and name not in ACROSS:
        strangers = [one for one, here in zip(tensors, on_gpu, strict=True) if not here and one.dim()]
        if strangers:
            raise RuntimeError(f"{function}: a tensor {tuple(strangers[0].shape)} in main memory, others on mps")
        if not _has_kernel(function):
            raise NotImplementedError(f"{function}: no kernel for mps")
    known = {id(one.here): one for one in tensors if isinstance(one, _OnMPS)}

    def inside(one: Any) -> Any:
        return one.here if isinstance(one, _OnMPS) else one

    given = _mapped(inside, dict(kwargs))
    if given.get("device") is not None:
        given["device"] = torch.device("cpu")
    found = function(*_mapped(inside, list(args)), **given)

    def outside(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        if one.dtype in REFUSED:
            raise TypeError(f"{function}: mps has no {one.dtype}")
        return known[id(one)] if id(one) in known else _OnMPS(one)

    if not there or (name == "aten::copy_" and not isinstance(args[0], _OnMPS)):
        return args[0] if name == "aten::copy_" else found
    return _mapped(outside, found)


@cache
def _table() -> Mapping[str, Any]:
    path = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    rows = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {row["func"].partition("(")[0]: row for row in rows}


ANY_DEVICE = ("CompositeImplicitAutograd", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")


@cache
def _has_kernel(function: Any) -> bool:
    """By the table: of its own, of the function that it delegates to, or of no device's at all."""
    name = function._schema.name.removeprefix("aten::")
    overload = function._schema.overload_name
    row = _table().get(f"{name}.{overload}" if overload else name)
    if row is None:
        return False
    if "structured_delegate" in row:
        row = _table()[row["structured_delegate"]]
    if "dispatch" not in row:
        return True
    keys = {key.strip() for keys in row["dispatch"] for key in keys.split(",")}
    return "MPS" in keys or not keys.isdisjoint(ANY_DEVICE)


@dataclass
class SimulatedMPS:
    """done: names of the operations that it has been asked for. fractions: of its memory, that a process may have."""

    done: set[str]
    fractions: list[float] = field(default_factory=list)


class _Event:
    """Of a GPU that has done everything by the time that anybody asks."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


@contextmanager
def simulated_mps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedMPS]:
    """Within, there is such a GPU with 8 GiB."""
    with _Names(), _Mode() as mode:
        found = SimulatedMPS(mode.done)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 8 << 30)
        monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 0)
        monkeypatch.setattr(torch.mps, "set_per_process_memory_fraction", found.fractions.append)
        monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.mps, "Event", _Event)
        yield found
