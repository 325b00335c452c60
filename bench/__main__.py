"""./dev bench [--rounds N] [--short] [NAME ...]: measure, print, and append to bench/RESULTS.md.

NAME is of: noop relay memory claim keeper (all, when none is given). `--short` proves that the bench runs, with tiny
counts; it says nothing about speed and writes nothing.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import anyio

from bench import measures
from bench.rounds import HEADER, Measured

RESULTS = Path(__file__).parent / "RESULTS.md"


@dataclass(frozen=True)
class Size:
    """How much is measured in one round."""

    rounds: int
    tasks: int
    single_tasks: int
    events: int
    gateways: int
    claims: int
    queued: int
    starts: int
    agents: int
    flood_mib: int


FULL = Size(
    rounds=7,
    tasks=3000,
    single_tasks=300,
    events=200_000,
    gateways=2000,
    claims=300,
    queued=100_000,
    starts=30,
    agents=50,
    flood_mib=60,
)
SHORT = Size(
    rounds=1,
    tasks=40,
    single_tasks=5,
    events=500,
    gateways=10,
    claims=5,
    queued=200,
    starts=2,
    agents=3,
    flood_mib=1,
)


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    programs = ", ".join(f"{name} {version(name)}" for name in ("celery", "redis", "uvicorn", "litestar", "uvloop"))
    redis = said("redis-server", "--version").split()[2].removeprefix("v=")
    python = platform.python_version()
    return f"{os.cpu_count()} x {model}, {memory} GB; Python {python}, redis-server {redis}, {programs}"


def said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


async def run(names: list[str], size: Size) -> list[Measured]:
    found: list[Measured] = []
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="fleetgate-bench-") as directory:
            found += await measures.ALL[name](Path(directory), size)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(measures.ALL))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--short", action="store_true")
    wanted = parser.parse_args()
    if unknown := set(wanted.names) - set(measures.ALL):
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    size = SHORT if wanted.short else FULL
    if wanted.rounds:
        size = Size(**{**size.__dict__, "rounds": wanted.rounds})
    found = anyio.run(run, wanted.names or list(measures.ALL), size)
    table = "\n".join([HEADER, *(measured.row() for measured in found)])
    print(table)
    if not wanted.short:
        commit = said("git", "rev-parse", "--short", "HEAD")
        now = datetime.datetime.now(datetime.UTC)
        head = f"\n## {now:%Y-%m-%d %H:%M} UTC, at {commit}, {size.rounds} rounds\n"
        with RESULTS.open("a") as results:
            results.write(f"{head}\n{machine()}\n\n{table}\n")


if __name__ == "__main__":
    main()
