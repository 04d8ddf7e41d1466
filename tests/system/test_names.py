"""Names that Windows or macOS lack are used in `powerinfer_cli/system` alone, or where one has asked whether they are
there. Which these are is told by typeshed, the types of the standard library that mypy brings along, for Python 3.11.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mypy
import pytest

ROOT = Path(__file__).parents[2]
STDLIB = Path(mypy.__file__).parent / "typeshed" / "stdlib"
STUBS = {
    "os": "os/__init__",
    "socket": "socket",
    "select": "select",
    "signal": "signal",
    "time": "time",
    "mmap": "mmap",
}
SOCKET, MAP = "_socket", "mmap"  # where methods are that a system's objects lack
UNIX = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog"}
SYSTEMS = ("linux", "darwin", "win32")
PYTHON = (3, 11)
# What Windows has, but refuses: to wait for all at a socket with a time limit, signals in an event loop, ways to start.
REFUSED = {"socket": {"MSG_WAITALL"}, "": {"add_signal_handler"}}
STARTING = {"preexec_fn", "pass_fds", "start_new_session", "process_group", "user", "group", "extra_groups"}


def holds(test: ast.expr, system: str) -> bool:
    """Of a condition in typeshed."""
    match test:
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(holds(part, system) for part in parts)
        case ast.BoolOp(op=ast.Or(), values=parts):
            return any(holds(part, system) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return not holds(part, system)
        case ast.Compare(left=ast.Attribute(attr="platform"), ops=[how], comparators=[ast.Constant(value=name)]):
            return (system == name) == isinstance(how, ast.Eq)
        case ast.Compare(left=ast.Attribute(attr="version_info"), ops=[how], comparators=[version]):
            return (ast.literal_eval(version) <= PYTHON) == isinstance(how, ast.GtE)
    return True


def defined(body: list[ast.stmt], system: str) -> Iterator[str]:
    """The names of a module or of classes in it, as NAME and CLASS.NAME."""
    for node in body:
        match node:
            case ast.If(test=test):
                yield from defined(node.body if holds(test, system) else node.orelse, system)
            case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.ImportFrom(names=names) | ast.Import(names=names):
                yield from (one.asname or one.name for one in names)
            case ast.ClassDef(name=name):
                yield name
                yield from (f"{name}.{inner}" for inner in defined(node.body, system))


@cache
def names(stub: str, system: str) -> frozenset[str]:
    return frozenset(defined(ast.parse((STDLIB / f"{stub}.pyi").read_text("utf-8")).body, system))


def lacking(stub: str) -> set[str]:
    """Names that Linux has, and macOS or Windows has not."""
    linux, *others = (names(stub, system) for system in SYSTEMS)
    return {name for name in linux if not all(name in other for other in others)}


@pytest.fixture(scope="module")
def lacks() -> dict[str, set[str]]:
    """By module; methods, of any object, by an empty name."""
    found = {module: {name for name in lacking(stub) if "." not in name} for module, stub in STUBS.items()}
    # Members of an enumeration, which the module has as its own names, too.
    found["signal"] |= {name.rpartition(".")[2] for name in lacking("signal")}
    methods = {name for stub in (SOCKET, MAP) for name in lacking(stub)}
    # (`mmap.resize` has a name that others have as well.)
    found[""] = {name.rpartition(".")[2] for name in methods if re.match(r"socket\.[a-z]|mmap\.madvise", name)}
    return {module: found[module] | REFUSED.get(module, set()) for module in found}


def used(tree: ast.Module, lacks: dict[str, set[str]]) -> Iterator[tuple[int, str]]:
    """What a module uses of them, but where its function asks for it by `hasattr`: line and name, in order."""
    asked: dict[str, set[str]] = defaultdict(set)
    left: list[tuple[ast.AST, str]] = [(tree, "")]
    while left:
        node, function = left.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                function = f"{function}/{node.name}"
            case ast.Call(func=ast.Name(id="hasattr"), args=[ast.Name(), ast.Constant(value=str(name))]):
                asked[function].add(name)
            case ast.Import(names=found) if mine := UNIX & {one.name for one in found}:
                yield node.lineno, min(mine)
            case ast.ImportFrom(module=str(module), names=found) if module in UNIX or module in lacks:
                yield from (
                    (node.lineno, f"{module}.{one.name}")
                    for one in found
                    if module in UNIX or one.name in lacks[module]
                )
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in lacks.get(module, ()):
                if name not in asked[function]:
                    yield node.lineno, f"{module}.{name}"
            case ast.Attribute(attr=name) if name in lacks[""]:
                yield node.lineno, name
            case ast.Call(func=ast.Attribute(attr="Popen" | "run"), keywords=given):
                yield from ((node.lineno, one.arg) for one in given if one.arg in STARTING)
        left += [(child, function) for child in reversed(list(ast.iter_child_nodes(node)))]


def test_what_a_system_lacks_is_used_in_its_room_alone(lacks: dict[str, set[str]]) -> None:
    found: list[tuple[str, int, str]] = []
    for path in (path for root in ("powerinfer_cli", "solver") for path in sorted((ROOT / root).rglob("*.py"))):
        place = path.relative_to(ROOT).as_posix()
        if not place.startswith("powerinfer_cli/system/"):
            found += [(place, *one) for one in used(ast.parse(path.read_text("utf-8")), lacks)]
    assert not found


def test_such_names_are_seen(lacks: dict[str, set[str]]) -> None:
    program = """
import fcntl, os, signal, socket, time
from os import fork
def f(sock, pages):
    os.kill(os.getpid(), signal.SIGKILL)
    os.getuid(); os.sched_setaffinity(0, [1]); socket.AF_UNIX; time.CLOCK_BOOTTIME
    sock.sendmsg([b""]); sock.sendall(b""); pages.madvise(1); os.fchmod(3, 0o600)
    subprocess.run(["ls"], preexec_fn=None, check=True); sock.recv(1, socket.MSG_WAITALL)
def g():
    if hasattr(os, "pread"):
        os.pread(0, 1, 0)
    os.pwrite(0, b"", 0)
def h():
    os.pread(0, 1, 0)
"""
    assert [name for _, name in used(ast.parse(program), lacks)] == [
        *("fcntl", "os.fork", "signal.SIGKILL", "os.getuid", "os.sched_setaffinity", "socket.AF_UNIX"),
        *("time.CLOCK_BOOTTIME", "sendmsg", "madvise", "os.fchmod", "preexec_fn", "socket.MSG_WAITALL"),
        *("os.pwrite", "os.pread"),
    ]
