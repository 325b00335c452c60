"""Run seeds, or show that broken rules are found.

    python -m tests.sim sim [--seconds N | --seeds A-B] [--base N] [--part K/N]
    python -m tests.sim sim --seed N [-v]
    python -m tests.sim mutants [--fast] [--part K/N] [NAME ...]

Exit code 1: something that must not happen has happened, or a broken rule was not noticed.
"""

import argparse
import gc
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from tests.sim import house, world
from tests.sim.world import World

KEPT = Path(__file__).with_name("seeds.txt")
TRACE_LINES = 60
COLLECT_EVERY = 20
TOLD = 3


def kept_seeds() -> list[int]:
    """Those that once found something. What a seed leads to changes with the code; that it was hard does not."""
    lines = KEPT.read_text().splitlines()
    return [int(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]


def one(seed: int, *, verbose: bool = False) -> World:
    return world.run(seed, verbose=verbose)


def tell(seed: int) -> None:
    """Once more, with everything that led to it."""
    again = one(seed, verbose=True)
    print(f"\nseed {seed}: {'; '.join(again.violations) or 'this time nothing: the simulation is not deterministic'}")
    print("\n".join(again.lines[-TRACE_LINES:]))
    print(f"all of it: ./dev chaos sim --seed {seed} -v\n", flush=True)


def seeds(args: argparse.Namespace) -> Iterator[int]:
    """In the order in which they are run: those that are kept go first."""
    index, parts = (int(number) for number in args.part.split("/"))
    chosen: Iterable[int]
    if args.seeds is not None:
        first, _, last = args.seeds.partition("-")
        chosen = range(int(first), int(last or first) + 1)
    else:
        fresh = count(args.base)
        chosen = (seed for some in (kept_seeds(), fresh) for seed in some)
    return (seed for number, seed in enumerate(chosen) if number % parts == index)


def sim(args: argparse.Namespace) -> int:
    if args.seed is not None:
        done = one(args.seed, verbose=True)
        print("\n".join(done.lines if args.verbose else done.lines[-TRACE_LINES:]))
        print(f"seed {args.seed} digest {done.digest:08x}: {'; '.join(done.violations) or 'ok'}")
        return 1 if done.violations else 0
    if args.seeds is None:
        print(f"kept seeds {kept_seeds()}, then fresh ones from {args.base} on", flush=True)
    began, failed, runs = time.monotonic(), 0, 0
    for seed in seeds(args):
        if args.seeds is None and time.monotonic() - began > args.seconds:
            break
        runs += 1
        if one(seed).violations:
            failed += 1
            if failed <= TOLD:
                tell(seed)
            else:
                print(f"seed {seed} has violations, too", flush=True)
        if runs % COLLECT_EVERY == 0:
            gc.collect()
    took = time.monotonic() - began
    print(f"{runs} seeds in {took:.0f} s, {runs / took:.1f}/s: {failed} with violations", flush=True)
    return 1 if failed else 0


def mutants(args: argparse.Namespace) -> int:
    from tests.sim import mutants

    return mutants.run(args.names, is_fast=args.fast, part=args.part)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./dev chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("sim")
    command.add_argument("--seconds", type=float, default=60.0)
    command.add_argument("--seeds", metavar="A-B")
    command.add_argument("--seed", type=int)
    command.add_argument("--base", type=int, default=time.time_ns() // 1_000_000)
    command.add_argument("--part", default="0/1")
    command.add_argument("-v", "--verbose", action="store_true")
    command.set_defaults(run=sim)
    command = commands.add_parser("mutants")
    command.add_argument("--fast", action="store_true", help="only those that few seeds find")
    command.add_argument("--part", default="0/1")
    command.add_argument("names", nargs="*")
    command.set_defaults(run=mutants)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # killed processes leave coroutines that nobody awaits
    sys.unraisablehook = lambda what: None
    gc.disable()  # circles of killed processes are looked for between runs, not within
    with house.doubles():
        code = args.run(args)
    assert isinstance(code, int)
    return code


if __name__ == "__main__":
    sys.stdout.flush()
    code = main()
    sys.stdout.flush()
    os._exit(code)  # what is left of killed processes would be tidied up otherwise
