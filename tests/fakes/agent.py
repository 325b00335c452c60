"""An agent that misbehaves on purpose: `python -I -S agent.py [--tag T] COMMAND ...`. Standard library only.

The tag means nothing to it; it is there to be found in the command line of whatever is left of it. With `--sign FILE`
it first appends to FILE who it is: task, attempt and pid. The command `told` reads the command, with its flags, from
the first line of stdin.
"""

import argparse
import contextlib
import json
import os
import resource
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {}


def command(function: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    COMMANDS[function.__name__.replace("_", "-")] = function
    return function


def say(text: str | bytes, fd: int = 1) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    while data:
        data = data[os.write(fd, data) :]


def hang() -> int:
    while True:
        signal.pause()


def and_then(args: argparse.Namespace) -> int:
    """The end that was asked for: exit, crash or hang."""
    if args.then == "hang":
        return hang()
    if args.then == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return int(args.code)


def leave_behind(args: argparse.Namespace, *, forks: int) -> None:
    """A process of its own session, which keeps no stdout; the one in between is gone."""
    ready, is_ready = os.pipe()
    for _ in range(forks):
        if os.fork():
            os.close(is_ready)
            os.read(ready, 1)
            os.wait()
            return
    if os.fork():
        if forks:
            os._exit(0)
        os.close(is_ready)
        os.read(ready, 1)
        return
    os.setsid()
    if args.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if args.tidies:

        def tidy(*_: object) -> None:
            Path(args.tidies).touch()
            os._exit(0)

        signal.signal(signal.SIGTERM, tidy)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.write(is_ready, b".")
    os.close(is_ready)
    if args.bare:
        me = [sys.executable, "-I", "-S", __file__, "--tag", args.tag, "silent"]
        os.closerange(0, 256)
        os.execve(me[0], me, {})
    hang()


@command
def forks_and_setsids(args: argparse.Namespace) -> int:
    leave_behind(args, forks=0)
    say("left\n")
    return and_then(args)


@command
def double_forks(args: argparse.Namespace) -> int:
    leave_behind(args, forks=1)
    say("left\n")
    return and_then(args)


@command
def hides(args: argparse.Namespace) -> int:
    """Everything at once: a child, one with a session of its own, an orphan, itself. All of them ignore TERM, and
    what is left behind has no environment and no handle.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    args.stubborn = args.bare = True
    if os.fork() == 0:
        os.closerange(0, 256)
        return hang()
    for forks in (0, 1):
        leave_behind(args, forks=forks)
    say("left\n")
    return and_then(args)


@command
def leaks_stdout(args: argparse.Namespace) -> int:
    """A child that goes on holding stdout; it says one line, then nothing."""
    if os.fork() == 0:
        say("from the child\n")
        return hang()
    return and_then(args)


@command
def slow_to_stop(args: argparse.Namespace) -> int:
    def stop(*_: object) -> None:
        say("tidying up\n")
        time.sleep(args.seconds)
        say("tidy\n")
        os._exit(args.code)

    signal.signal(signal.SIGTERM, stop)
    say("ready\n")
    return hang()


@command
def ignores_term(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("ready\n")
    return hang()


@command
def stops_itself(args: argparse.Namespace) -> int:
    say("ready\n")
    os.kill(os.getpid(), signal.SIGSTOP)
    return hang()


@command
def floods(args: argparse.Namespace) -> int:
    """`count` MiB of lines of `width` bytes, 0: empty lines, -1: no line at all; then `done` on stderr."""
    line = b"" if args.width < 0 else b"x" * args.width + b"\n"
    block = (line * (1024 * 1024 // len(line)) if line else b"y" * 1024 * 1024)[: 1024 * 1024]
    for _ in range(args.count):
        say(block)
    say("done\n", 2)
    return and_then(args)


@command
def lines(args: argparse.Namespace) -> int:
    """`count` numbered lines, `rate` a second (0: at once), on stdout or stderr."""
    fd = 2 if args.stderr else 1
    if not args.rate:
        say(b"".join(b"line %d\n" % number for number in range(args.count)), fd)
    else:
        for number in range(args.count):
            say(f"line {number}\n", fd)
            time.sleep(1 / args.rate)
    return and_then(args)


@command
def half_a_line(args: argparse.Namespace) -> int:
    say("whole\nhalf")
    return and_then(args)


@command
def long_line(args: argparse.Namespace) -> int:
    """One line of `count` bytes, and a short one."""
    block = b"0123456789abcdef" * 4096
    full, rest = divmod(args.count, len(block))
    for _ in range(full):
        say(block)
    say(block[:rest] + b"\nshort\n")
    return and_then(args)


@command
def not_utf8(args: argparse.Namespace) -> int:
    say(b"\xff\xfe caf\xe9\n" + bytes(range(1, 10)) + b"\0\n" + "line\u2028separator\r\n".encode())
    return and_then(args)


@command
def ansi(args: argparse.Namespace) -> int:
    say("\x1b[31mred\x1b[0m\a\x1b]0;title\a\n")
    return and_then(args)


@command
def silent(args: argparse.Namespace) -> int:
    return hang()


@command
def result_then_hangs(args: argparse.Namespace) -> int:
    say('{"type":"result","ok":true}\n')
    return hang()


@command
def dies(args: argparse.Namespace) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    say("last words\n")
    os.kill(os.getpid(), args.signal)
    return hang()


@command
def exits(args: argparse.Namespace) -> int:
    return int(args.code)


@command
def echo(args: argparse.Namespace) -> int:
    """Answers each line of stdin until its end."""
    say("ready\n")
    for line in sys.stdin.buffer:
        say(b"echo: " + line)
    say("end of input\n")
    return and_then(args)


@command
def repeats(args: argparse.Namespace) -> int:
    """Says each line of stdin, until `bye`."""
    for line in sys.stdin.buffer:
        say(line)
        if line == b"bye\n":
            break
    return and_then(args)


@command
def ticks(args: argparse.Namespace) -> int:
    """`count` times the time of day in ms, `rate` a second."""
    for _ in range(args.count):
        say(f"{time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000}\n")
        time.sleep(1 / args.rate)
    return and_then(args)


@command
def counts(args: argparse.Namespace) -> int:
    """How many bytes stdin had."""
    say(f"{len(sys.stdin.buffer.read())}\n")
    return and_then(args)


@command
def closes_stdin(args: argparse.Namespace) -> int:
    os.close(0)
    say("deaf\n")
    return and_then(args)


@command
def reads_nothing(args: argparse.Namespace) -> int:
    say("ready\n")
    return hang()


@command
def stutters(args: argparse.Namespace) -> int:
    """Says what its environment calls SAY in pieces of `count` bytes."""
    data = os.environ["SAY"].encode()
    for start in range(0, len(data), args.count):
        say(data[start : start + args.count])
        time.sleep(0.002)
    return and_then(args)


@command
def looks_around(args: argparse.Namespace) -> int:
    """What it was given, as JSON."""
    umask = os.umask(0)
    fds = []
    for fd in range(256):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            fds.append(fd)
    seen = {
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "fds": fds,
        "umask": umask,
        "session": os.getsid(0) == os.getpid(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "oom": int(Path("/proc/self/oom_score_adj").read_text()),
        "stdin": os.readlink("/proc/self/fd/0"),
        "stdout": os.readlink("/proc/self/fd/1").partition(":")[0],
    }
    say(json.dumps(seen) + "\n")
    return and_then(args)


@command
def told(args: argparse.Namespace) -> int:
    """Not a byte more than the line: the rest is for the command."""
    line = bytearray()
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    args = args.parser.parse_args(shlex.split(line.decode()))
    return COMMANDS[args.command](args)


def sign(file: str) -> None:
    who = (os.environ.get("FLEETGATE_TASK_ID", "-"), os.environ.get("FLEETGATE_ATTEMPT", "-"), str(os.getpid()))
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    say(" ".join(who) + "\n", fd)
    os.close(fd)


def main() -> int:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python itself ignores these two
        signal.signal(number, signal.SIG_DFL)
    parser = argparse.ArgumentParser()
    parser.add_argument("--tag", default="-")
    parser.add_argument("--sign", help="append to this file: task, attempt and pid")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        one = commands.add_parser(name, help=function.__doc__)
        one.add_argument("--then", choices=["exit", "crash", "hang"], default="exit")
        one.add_argument("--code", type=int, default=0)
        one.add_argument("--count", type=int, default=100)
        one.add_argument("--width", type=int, default=80)
        one.add_argument("--rate", type=float, default=0)
        one.add_argument("--seconds", type=float, default=0.3)
        one.add_argument("--signal", type=int, default=signal.SIGKILL)
        one.add_argument("--stderr", action="store_true")
        one.add_argument("--stubborn", action="store_true", help="what is left behind ignores TERM")
        one.add_argument("--tidies", help="what is left behind makes this file when it is asked to end")
        one.add_argument("--bare", action="store_true", help="what is left behind has thrown away its environment")
    args = parser.parse_args()
    if args.sign:
        sign(args.sign)
    return COMMANDS[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
