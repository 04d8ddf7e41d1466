#!/usr/bin/env python3
"""Check that `serve deploy` serves what `powerinfer cluster config` writes, on a Ray cluster that others have started.

    python scripts/checks/check_serve_deploy.py                  # the bundled model
    python scripts/checks/check_serve_deploy.py -m FILE -v       # with what `serve status` says

`ray start --head` on 127.0.0.1 with a bounded object store and a token; one replica by `serve deploy`; the openai
client; two replicas by another `serve deploy`, and one again, while requests come; a flag that there is not, which must
leave all as it was. Then what was started is ended by its own marks: `ray stop` would end every Ray of the machine.
For Linux.
"""

import argparse
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
from openai import APIError, OpenAI

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from powerinfer_cli import open_model  # noqa: E402  # after the path is set
from powerinfer_cli.cluster.replicas.guard import marked  # noqa: E402  # after the path is set
from powerinfer_cli.cluster.replicas.guarding import MARK, guarded  # noqa: E402  # after the path is set
from scripts.clients.process import free_port  # noqa: E402  # after the path is set

PROMPT, TOKENS = "Once upon a time", 32
STORE_BYTES, CPUS = 128 << 20, 4
PATIENCE_S = 180.0
FLAGS = ("-t", "1", "-np", "2", "-c", "1024", "--metrics", "--api-key", "key", "--drain-seconds", "10")
PROGRAMS = Path(sys.executable).parent  # of this environment: ray, serve


class Check:
    """One Ray cluster, and an application on it. Raises RuntimeError where something is not as it should be."""

    def __init__(self, folder: str, model: list[str]) -> None:
        self.folder, self.model = Path(folder), model
        self.port, self.dashboard = free_port(), free_port()
        self.began = time.monotonic()
        os.environ |= {
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # 15 by default: behind all else that a machine does
            "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{self.dashboard}",
        }

    def tell(self, line: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {line}", flush=True)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:3])}: {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout

    def start_ray(self) -> None:
        ports = [
            f"--{name}={free_port()}" for name in ("port", "ray-client-server-port", "dashboard-agent-listen-port")
        ]
        places = ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"]
        sizes = [f"--num-cpus={CPUS}", f"--object-store-memory={STORE_BYTES}", f"--temp-dir={self.folder / 'ray'}"]
        self.run(str(PROGRAMS / "ray"), "start", "--head", *ports, *places, *sizes)
        self.tell("ray start --head")

    def deploy(self, replicas: int) -> None:
        """Write the file, and hand it to the cluster."""
        command = [sys.executable, "-m", "powerinfer_cli", "cluster", "config", *self.model, *FLAGS]
        self.run(*command, "--port", str(self.port), "--replicas", str(replicas), "-o", "serve.yaml")
        self.run(str(PROGRAMS / "serve"), "deploy", "serve.yaml")

    def status(self) -> tuple[str, str, int]:
        """(of the application, its message, replicas that run): what `serve status` asks for, and prints."""
        token = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
        answer = httpx.get(f"{os.environ['RAY_DASHBOARD_ADDRESS']}/api/serve/applications/", headers=token, timeout=60)
        found = answer.raise_for_status().json()["applications"].get("powerinfer")
        if found is None:
            return "", "", 0
        replicas = found["deployments"].get("replicas", {}).get("replicas", [])
        return found["status"], found["message"], sum(one["state"] == "RUNNING" for one in replicas)

    def until(self, status: str, replicas: int | None = None) -> str:
        """The application's message, once it is so. replicas: None where Serve tells of none: of what has failed."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            now, message, running = self.status()
            if now == status and replicas in (None, running):
                self.tell(f"{now}, {running} replicas")
                return message
            if time.monotonic() > deadline:
                raise RuntimeError(f"serve status: {now}, {running} replicas: {message}")
            time.sleep(0.5)

    def ask(self) -> str:
        """What is written, as it comes."""
        with OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="key", timeout=60, max_retries=0) as client:
            chunks = client.completions.create(
                model="any", prompt=PROMPT, max_tokens=TOKENS, temperature=0, stream=True
            )
            return "".join(chunk.choices[0].text for chunk in chunks)


def asking(check: Check, wanted: str, ended: threading.Event, outcomes: Counter[str]) -> None:
    """One request after the other."""
    while not ended.is_set():
        try:
            outcomes["right" if check.ask() == wanted else "wrong"] += 1
        except APIError as error:
            outcomes[f"error: {error}"[:100]] += 1


def walk(check: Check, wanted: str, *, verbose: bool) -> bool:
    """Whether all went as it should."""
    check.start_ray()
    check.deploy(1)
    check.until("RUNNING", 1)
    if check.ask() != wanted:
        raise RuntimeError("another text than the engine's")
    check.tell("the openai client gets the engine's text")
    if verbose:
        print(check.run(str(PROGRAMS / "serve"), "status"))
    ended, outcomes = threading.Event(), Counter[str]()
    client = threading.Thread(target=asking, args=(check, wanted, ended, outcomes))
    client.start()
    try:
        for replicas in (2, 1):
            check.deploy(replicas)
            check.until("RUNNING", replicas)
        file = check.folder / "serve.yaml"
        file.write_text(file.read_text().replace('flags: ["', 'flags: ["--no-such-flag", "'))
        check.run(str(PROGRAMS / "serve"), "deploy", "serve.yaml")
        message = check.until("DEPLOY_FAILED")
        still = check.ask() == wanted
    finally:
        ended.set()
        client.join()
    check.tell(f"a wrong flag: {message.strip().splitlines()[-1][:200]}; still served: {still}")
    check.tell(f"requests meanwhile: {dict(outcomes)}")
    check.run(str(PROGRAMS / "serve"), "shutdown", "-y")
    check.tell("serve shutdown")
    return still and set(outcomes) == {"right"}


def main() -> None:
    """Exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", metavar="FILE")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what `serve status` says")
    args = parser.parse_args()
    with open_model(*([args.model] if args.model else []), n_ctx=1024, n_threads=1) as model:
        wanted = "".join(model.generate(PROMPT, max_tokens=TOKENS, temperature=0))
    with guarded() as (folder, kill):
        mark = os.environ[MARK]
        right = walk(Check(folder, ["-m", args.model] if args.model else []), wanted, verbose=args.verbose)
        kill()
        left = list(marked(mark))
    print("all is well" if right and not left else f"wrong; processes that are left: {left}")
    sys.exit(not right or bool(left))


if __name__ == "__main__":
    main()
