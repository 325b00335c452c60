"""The README is true: the commands of its tour are run in order, and what they print is compared.

`...` in the README stands for anything, as in doctests; white space counts as white space.
"""

import doctest
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.harness import environment, left_behind, until

ROOT = Path(__file__).parents[1]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
URL = "http://127.0.0.1:3001"
PREPARATION = 2  # commands before `fleetgate up`


def tour() -> Iterator[tuple[str, str]]:
    """(command, what the README says it prints)."""
    text = (ROOT / "README.md").read_text()
    _, _, rest = text.partition("<!-- tour:")
    inside, end, _ = rest.partition("<!-- end of the tour -->")
    assert end
    for block in re.findall(r"```console\n(.*?)```", inside, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield command, printed


class Shell:
    """One bash for the whole tour, as a reader has it."""

    def __init__(self, cwd: Path, env: dict[str, str]) -> None:
        self._errors = cwd.parent / "errors"
        self._bash = subprocess.Popen(
            ["bash"], cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def run(self, command: str) -> str:
        """What it prints; what it complains about when it prints nothing."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        end = f"end of {id(command)}"
        self._bash.stdin.write(f"{{ {command}\n}} 2>{self._errors} </dev/null; echo; echo '{end}'\n")
        self._bash.stdin.flush()
        lines = list(iter(self._bash.stdout.readline, f"{end}\n"))
        return "".join(lines).strip() or self._errors.read_text().strip()

    def close(self) -> None:
        self._bash.communicate("exit\n", timeout=10)


@pytest.mark.timeout(120)
async def test_the_tour_of_the_readme_is_true(tmp_path: Path):
    home = tmp_path / "home"
    work = home / "work"
    work.mkdir(parents=True)
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    env = {**environment(home, {}), "FLEETGATE_HOME": str(home / ".fleetgate"), "PATH": path, "NO_COLOR": "1"}
    steps = list(tour())
    assert len(steps) > 10
    shell = Shell(work, env)
    for command, printed in steps[:PREPARATION]:
        assert shell.run(command) == printed.strip()
    log = tmp_path / "up.log"
    with log.open("wb") as out:
        argv = [programs / "fleetgate", "up", "--port", "0"]
        up = subprocess.Popen(argv, cwd=work, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        await until(lambda: "Ctrl-C" in log.read_text(), 30, "it is up")
        url = re.search(r"^\s*URL\s+(http://\S+)$", log.read_text(), re.MULTILINE)
        assert url
        for command, printed in steps[PREPARATION:]:
            got = shell.run(command.replace(URL, url[1]))
            assert doctest.OutputChecker().check_output(printed, got, OPTIONS), f"$ {command}\n{got}\nnot:\n{printed}"
    finally:
        shell.close()
        up.send_signal(signal.SIGTERM)
        up.wait(30)
    await until(lambda: not left_behind(home), 10, "nothing is left")
