"""Every module can be imported on a Mac and on Windows: none needs for that what only Linux has."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What others import comes first, unhindered: theirs is their own affair. Then each system has a process.
PROGRAM = r"""
import contextlib, importlib, multiprocessing, os, re, signal, socket, subprocess, sys, traceback
from pathlib import Path

UNIX = ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp")
files = [path for root in ("powerinfer_cli", "solver") for path in sorted(Path(root).rglob("*.py"))]
ours = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
ours = [name for name in ours if not name.endswith("__main__")]
wanted = {found for path in files for found in re.findall(r"^(?:from|import) ([\w.]+)", path.read_text("utf-8"), re.M)}
for name in sorted(wanted):
    if name.split(".")[0] not in ("powerinfer_cli", "solver", *UNIX) and name[0] != ".":
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
CORES = "sched_getaffinity sched_setaffinity sched_getcpu posix_fadvise"
LACKS = {
    "darwin": {os: CORES},
    "win32": {
        os: f"{CORES} getuid geteuid getgid fork uname sysconf killpg setsid getpgid getloadavg mkfifo fchmod chown "
            "statvfs pread pwrite O_CLOEXEC O_NONBLOCK O_NOFOLLOW O_DIRECTORY",
        signal: "SIGHUP SIGKILL SIGALRM SIGBUS SIGPROF SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE SIGQUIT setitimer alarm "
                "ITIMER_PROF ITIMER_REAL pthread_kill pthread_sigmask",
        socket: "AF_UNIX SO_REUSEPORT",
    },
}
for system, lacks in LACKS.items():
    process = os.fork()
    if process:
        os.waitpid(process, 0)
        continue
    if system == "win32":
        sys.modules.update(dict.fromkeys(UNIX))
    for module, names in lacks.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    sys.platform = system
    done = 0
    for name in ours:
        try:
            importlib.import_module(name)
            done += 1
        except ModuleNotFoundError as error:
            if error.name in ("ray", "grpc"):  # an extra and what it brings, which need not be there
                done += 1
            else:
                print(system, name, repr(error), flush=True)
        except Exception as error:
            print(system, name, repr(error), traceback.extract_tb(error.__traceback__)[-1], flush=True)
    print(system, "all" if done == len(ours) > 100 else "not all", flush=True)
    os._exit(0)
"""


UNIX = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp"}
LACKS = {
    "os": "fork getuid geteuid uname sysconf killpg setsid mkfifo openpty pread O_NONBLOCK sched_getaffinity",
    "signal": "SIGHUP SIGKILL SIGALRM SIGBUS SIGPROF SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE SIGSTOP setitimer pthread_kill",
    "socket": "AF_UNIX SO_REUSEPORT",
}


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """What is run while a module is imported."""
    left: list[ast.AST] = list(tree.body)
    while left:
        node = left.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            left += [*node.decorator_list, *node.args.defaults]
        elif not isinstance(node, ast.Lambda):
            left += ast.iter_child_nodes(node)


def test_tests_are_imported_on_windows() -> None:
    """Where one needs what Windows lacks, it asks when it runs, or skips."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in at_import(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Import(names=names) if UNIX & {one.name.partition(".")[0] for one in names}:
                    found.append((path, names[0].name))
                case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in UNIX:
                    found.append((path, module))
                case ast.Attribute(value=ast.Name(id=owner), attr=name) if name in LACKS.get(owner, "").split():
                    found.append((path, f"{owner}.{name}"))
    assert not found


@pytest.mark.timeout(400)  # all that others have is imported first: minutes on a busy machine
def test_all_is_imported_where_there_is_no_linux() -> None:
    told = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.stdout.splitlines() == ["darwin all", "win32 all"], told.stdout + told.stderr
