"""Starts a program that is told to end (SIGTERM) when the one that started it dies, however it dies.

    python -I -S tether.py PARENT_PID PROGRAM ARGUMENT...

prctl(PR_SET_PDEATHSIG) survives the exec, so the program itself is what remains. Where there is no prctl it just
execs. Standard library only; nothing of ours is imported.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() == parent:  # else it died before we asked: nobody wants us any more
        os.execv(argv[0], argv)  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main()
