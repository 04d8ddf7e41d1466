"""A Dockerfile carried out without Docker, in a clean Debian: its RUN lines, then its ENTRYPOINT and HEALTHCHECK."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.deploy_check.dockerfile import Instruction, argument_defaults, environment, instructions, list_of

__all__ = ["Rehearsal", "make_root"]

PACKAGES = "python3,python3-venv,ca-certificates"
SHELL = ["/bin/bash", "-euo", "pipefail", "-c"]
START_S = 300
PASSED_ON = ("PIP_", "SSL_CERT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")  # how this machine reaches the package index


def make_root(folder: Path, mirror: str) -> Path:
    """A minimal Debian with Python at `folder`/base, in place of the image that FROM names; kept for the next time."""
    base = folder / "base"
    if not (base / "image" / "bin" / "python").exists():
        base.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(base), mirror], check=True
        )
        subprocess.run(["chroot", str(base), "python3", "-m", "venv", "/image"], check=True)
    return base


@dataclass(frozen=True)
class Rehearsal:
    """All that is written goes on top of `base`, into `folder`/top, and replaces what was there.

    `context` is bound to /source, read-only, as BuildKit does; `shared` to themselves, for local wheels.
    """

    folder: Path
    base: Path
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str]
    shared: Sequence[Path]

    @property
    def root(self) -> Path:
        return self.folder / "merged"

    @property
    def steps(self) -> list[Instruction]:
        return instructions(self.dockerfile.read_text("utf-8"))

    def environment(self) -> dict[str, str]:
        """Of both building and running."""
        passed = {name: value for name, value in os.environ.items() if name.upper().startswith(PASSED_ON)}
        path = "/image/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {**passed, **argument_defaults(self.steps), **self.arguments, "PATH": path, "HOME": "/root"}

    def inside(self, command: Sequence[str], user: str = "0") -> list[str]:
        """The command as it is run from out here."""
        return ["chroot", f"--userspec={user}:{user}", str(self.root), *command]

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """What the container would see of the machine and of the context."""
        shutil.rmtree(self.folder / "top", ignore_errors=True)
        for name in ("top/upper", "top/work", "merged"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        top = self.folder / "top"
        layers = f"lowerdir={self.base},upperdir={top / 'upper'},workdir={top / 'work'}"
        with ExitStack() as stack:
            mount(stack, self.root, ["-t", "overlay", "-o", layers, "overlay"])
            mount(stack, self.root / "proc", ["-t", "proc", "proc"])
            for path in (Path("/dev"), Path("/sys"), *self.shared):
                mount(stack, self.root / path.relative_to("/"), ["-o", "bind", str(path)])
            mount(stack, self.root / "source", ["-o", "bind", str(self.context)])
            subprocess.run(["mount", "-o", "remount,bind,ro", str(self.root / "source")], check=True)
            yield

    def build(self) -> None:
        """Every RUN. Raises CalledProcessError at the first that fails."""
        for step in self.steps:
            if step.keyword == "RUN":
                print(f"RUN {step.text[:100]}", flush=True)
                subprocess.run(self.inside([*SHELL, step.text]), env=self.environment(), check=True)

    def serve(self, more: Sequence[str] = ()) -> str:
        """Start the ENTRYPOINT as USER, wait until HEALTHCHECK is content, stop it; what was seen, in a line.

        Raises RuntimeError if it does not become healthy, or does not end well within ten seconds of SIGTERM.
        """
        steps = self.steps
        (user,) = (step.text for step in steps if step.keyword == "USER")
        variables = {**self.environment(), **environment(steps)}
        begin = time.monotonic()
        server = subprocess.Popen(self.inside([*list_of(steps, "ENTRYPOINT"), *more], user), env=variables)
        try:
            probe = self.inside(list_of(steps, "HEALTHCHECK"), user)
            while subprocess.run(probe, env=variables, capture_output=True, check=False).returncode:
                if server.poll() is not None:
                    raise RuntimeError(f"the server ended with code {server.returncode}")
                if time.monotonic() - begin > START_S:
                    raise RuntimeError(f"not healthy after {START_S} s")
                time.sleep(0.5)
            healthy = time.monotonic() - begin
            server.send_signal(signal.SIGTERM)
            code = server.wait(10)
        finally:
            server.kill()
        if code:
            raise RuntimeError(f"exit code {code} after SIGTERM")
        return f"healthy after {healthy:.1f} s as user {user}, ended with code 0 on SIGTERM"


def mount(stack: ExitStack, place: Path, options: Sequence[str]) -> None:
    """Mount at `place`, which is made, until the stack is left."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *options, str(place)], check=True)
    stack.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
