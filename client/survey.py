"""An agent without a model: looks at the directory it is run in and tells what is there, as JSON Lines of events.

`fleetgate demo` declares it as a `command` agent where no coding agent is found. What it does is real: it walks the
directory, asks git, and says what it found. Standard library only; it changes nothing.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

SKIPPED = {".git", "node_modules", ".venv", "venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
MOST_FILES = 50_000


def tell(type_: str, content: str | None = None, **data: Any) -> None:
    event = {"type": type_, "content": content, "data": data}
    print(json.dumps(event), flush=True)  # noqa: T201 - stdout is how an agent speaks


def walk(root: Path) -> tuple[Counter[str], int, list[tuple[int, str]]]:
    """(files by suffix, bytes, the largest files)."""
    kinds: Counter[str] = Counter()
    total, largest = 0, []
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in SKIPPED)
        for name in files:
            path = Path(directory, name)
            try:
                size = path.lstat().st_size
            except OSError:
                continue  # it went away while we looked
            kinds[path.suffix or name] += 1
            total += size
            largest.append((size, str(path.relative_to(root))))
        if sum(kinds.values()) >= MOST_FILES:
            break
    return kinds, total, sorted(largest, reverse=True)[:3]


def ask(call_id: str, *argv: str) -> list[str] | None:
    """Run a program and tell it; its lines, or None when it fails."""
    tell("tool_call", id=call_id, name="run", kind="execute", title=" ".join(argv), input={"command": " ".join(argv)})
    program = shutil.which(argv[0])
    if program is None:
        tell("tool_result", f"{argv[0]} is not installed", id=call_id, ok=False)
        return None
    done = subprocess.run(
        [program, *argv[1:]], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    said = (done.stdout or done.stderr).strip()
    tell("tool_result", said[:4000], id=call_id, ok=done.returncode == 0, exitCode=done.returncode)
    return done.stdout.splitlines() if done.returncode == 0 else None


def main() -> None:
    wish = sys.stdin.read().strip()
    root = Path.cwd()
    tell("thinking", f"I was asked: {wish[:200]} I am no model, so I look at what is here and count it.", delta=False)

    tell("tool_call", id="files", name="walk", kind="read", title=f"walk {root}", input={"path": str(root)})
    kinds, total, largest = walk(root)
    count = sum(kinds.values())
    common = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(5))
    tell("tool_result", f"{count} files, {total:,} bytes\n{common}", id="files", ok=True)

    log = ask("log", "git", "log", "--oneline", "-5")
    status = ask("status", "git", "status", "--short") if log is not None else None

    said = [f"{root} holds {count:,} files with {total:,} bytes" + (f": {common}." if common else ".")]
    if largest:
        said.append("The largest: " + ", ".join(f"{name} ({size:,} bytes)" for size, name in largest) + ".")
    if log:
        said.append(f"It is a git repository; the newest commit is: {log[0]}.")
        said.append(f"{len(status or [])} files differ from it.")
    else:
        said.append("It is no git repository with commits.")
    said.append(f"This machine has {os.cpu_count()} cores and runs Python {sys.version.split()[0]}.")
    tell("message", "\n".join(said), delta=False, role="assistant")


if __name__ == "__main__":
    main()
