"""Everything that only a machine with a CUDA GPU can tell of the hybrid runtime; and a rehearsal of it on the CPU.

    scripts/gpu_check                                 all of it: equality, budgets, waits, timeline, speed
    scripts/gpu_check --only equality,waits           a part
    scripts/gpu_check --device cpu --shapes tiny      the same logic without a GPU, in a minute; says nothing of speed

Writes gpu-DATE.json, gpu-DATE.md and a trace to --out. Exit code 1: something that must hold does not.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from powerinfer_cli.runtime import EngineOptions
from powerinfer_cli.runtime.threads import default_threads
from scripts.gpu.checks import Finding, budgets, equality, suites, waits
from scripts.gpu.models import SHAPES, Case, open_case
from scripts.gpu.speed import Speed, bandwidths, compare, timeline
from solver.placing import DeviceProfile, load_profile

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("suites", "equality", "budgets", "waits", "timeline", "speed")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="what torch calls the GPU (default cuda:0)")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--shapes", default="7b", help=f"models of timeline and speed, of {','.join(SHAPES)}")
    parser.add_argument("--types", default="Q4_0,F16", help="their weight types")
    parser.add_argument("--models", type=Path, default=Path("/tmp/powerinfer-models"), help="where models are made")
    parser.add_argument("--out", type=Path, default=ROOT / "scripts/bench/results", help="where results go")
    parser.add_argument("--profile", default="rtx-4090-ddr5", help="device profile that plans are made with")
    args = parser.parse_args(arguments)
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(PARTS):
        parser.error(f"--only does not know {', '.join(sorted(unknown))}")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Run the parts, write the results, tell the exit code."""
    args = parse(arguments)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "error: there is no CUDA GPU here, or this torch is built without CUDA: try --device cpu", file=sys.stderr
        )
        return 1
    profile = load_profile(args.profile)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"gpu-{time.strftime('%Y-%m-%d')}-{device.type}"
    findings: list[Finding] = []
    for finding in _findings(args, profile):
        print(f"{'ok    ' if finding.ok else 'FAILED'} {finding.check}: {finding.seen}", flush=True)
        findings.append(finding)
    speeds = list(_speeds(args, profile, stem))
    _write(stem, device, findings, speeds)
    return 0 if all(finding.ok for finding in findings) else 1


def _findings(args: argparse.Namespace, profile: DeviceProfile) -> Iterator[Finding]:
    if "suites" in args.only:
        yield from suites(args.device)
    small = "tiny" if args.shapes == "tiny" else "1.1b"
    if "equality" in args.only:
        yield from equality(_case(args, "tiny", "F32", profile))
    if "budgets" in args.only:
        yield from budgets(_case(args, small, "Q4_0", profile))
    if "waits" in args.only:
        yield from waits(_case(args, small, "Q4_0", profile))


def _speeds(args: argparse.Namespace, profile: DeviceProfile, stem: Path) -> Iterator[Speed]:
    cases = [(shape, kind) for shape in args.shapes.split(",") for kind in args.types.split(",")]
    if "timeline" in args.only:
        table = timeline(_case(args, *cases[0], profile), stem.with_suffix(".trace.json"))
        stem.with_suffix(".timeline.txt").write_text(table)
        print(table)
    if "speed" in args.only:
        gpu, cpu = bandwidths(torch.device(args.device), default_threads())
        print(f"bandwidth: GPU {gpu / 1e9:.0f} GB/s, CPU {cpu / 1e9:.0f} GB/s")
        for shape, kind in cases:
            for speed in compare(_case(args, shape, kind, profile), gpu, cpu):
                print(f"{speed.what}: {speed.value:.2f} (target {speed.target}), {speed.seen}", flush=True)
                yield speed


def _case(args: argparse.Namespace, shape: str, kind: str, profile: DeviceProfile) -> Case:
    cache = "f32" if kind == "F32" else "f16"
    n_ctx = min(512, SHAPES[shape].ctx)
    options = EngineOptions(n_ctx=n_ctx, n_ubatch=256, type_k=cache, type_v=cache)
    return open_case(args.models, shape, kind, options, args.device, profile)


def _write(stem: Path, device: torch.device, findings: list[Finding], speeds: list[Speed]) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"rehearsal on {platform.machine()}"
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": name,
        "torch": torch.__version__,
        "findings": [asdict(finding) for finding in findings],
        "speeds": [asdict(speed) | {"met": speed.met} for speed in speeds],
    }
    stem.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [f"{name}, torch {torch.__version__}, {result['date']}", ""]
    if findings:
        lines += ["| check | | seen |", "| --- | --- | --- |"]
        lines += [f"| {f.check} | {'ok' if f.ok else 'FAILED'} | {f.seen} |" for f in findings]
    if speeds:
        lines += ["", "| what | value | target | | seen |", "| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {s.what} | {s.value:.2f} | {s.target} | {'met' if s.met else 'missed'} | {s.seen} |" for s in speeds
        ]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
