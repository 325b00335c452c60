"""What a task may ask for at all, before any host is looked at. The host checks again and has the last word.

Pure: a TaskCreate goes in, a refusal comes out as an exception that names the field.
"""

import re
from fnmatch import fnmatchcase
from typing import Any, Final

from manager.errors import Invalid, TooLarge
from shared_types.api import TaskCreate
from shared_types.hosts import AGENT_ALIASES
from shared_types.tasks import MAX_PROMPT_BYTES

MAX_DEPTH: Final = 32
KNOWN_AGENTS: Final = frozenset({"opencode", *AGENT_ALIASES.values()})

# Names that change how programs load, where they look or whom they trust (docs/security.md, "Execution").
REFUSED_ENV: Final = (
    *("LD_*", "DYLD_*", "GLIBC_*", "GCONV_PATH", "OPENSSL_*"),
    *("PATH", "HOME", "SHELL", "IFS", "ENV", "BASH_*", "ZDOTDIR", "SHELLOPTS", "BASHOPTS", "PROMPT_COMMAND", "TMPDIR"),
    *("PYTHON*", "NODE_*", "NPM_*", "PERL*", "RUBY*", "JAVA_*", "_JAVA_*", "GIT_*", "SSH_*", "XDG_*"),
    *("*_BASE_URL", "*_PROXY", "*_CA_BUNDLE", "SSL_*", "CURL_*"),
    *("FLEETGATE_*", "GATEWAY_*", "MANAGER_*"),
)
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ENV_FIELD: Final = "$.env"


def check(create: TaskCreate) -> None:
    """Raises Invalid, TooLarge."""
    check_text(create.prompt, field="$.prompt", code="PROMPT_TOO_LARGE")
    if create.cwd is not None:
        check_cwd(create.cwd)
    for name, value in create.env.items():
        check_env(name, value)
    check_depth(create.metadata)


def check_depth(metadata: dict[str, Any]) -> None:
    """Raises Invalid. What is nested without end can be read once and then be shown, stored or sent by nobody."""
    level: list[Any] = [metadata]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise Invalid(
        f"It is nested more than {MAX_DEPTH} deep.",
        code="METADATA_TOO_DEEP",
        hint="Put what is nested into a string, or into a file.",
        field="$.metadata",
    )


def check_text(text: str, *, field: str, code: str) -> None:
    """Raises TooLarge."""
    if len(text) <= MAX_PROMPT_BYTES // 4:
        return
    size = len(text.encode())
    if size > MAX_PROMPT_BYTES:
        raise TooLarge(
            f"It has {size} bytes; {MAX_PROMPT_BYTES} is the limit.",
            code=code,
            hint="Put the material into a file below the task's cwd and name the file.",
            field=field,
        )


def check_cwd(cwd: str) -> None:
    """Raises Invalid."""
    if not cwd.startswith("/") or "\0" in cwd:
        raise Invalid(
            f"cwd must be an absolute path on the host, not {cwd[:200]!r}.", code="CWD_NOT_ABSOLUTE", field="$.cwd"
        )


def check_env(name: str, value: str) -> None:
    """Raises Invalid ENV_NOT_ALLOWED with the name."""
    if not _ENV_NAME.fullmatch(name):
        raise Invalid(
            f"{name[:64]!r} is not a name of an environment variable.", code="ENV_NOT_ALLOWED", field=_ENV_FIELD
        )
    field = f"{_ENV_FIELD}.{name}"
    upper = name.upper()
    if any(fnmatchcase(upper, pattern) for pattern in REFUSED_ENV):
        raise Invalid(
            f"A task may not set {name}: it changes how programs load, where they look or whom they trust.",
            code="ENV_NOT_ALLOWED",
            hint="The owner of a host can set it in the gateway's own environment.",
            field=field,
        )
    if "\0" in value:
        raise Invalid(f"The value of {name} has a NUL.", code="ENV_NOT_ALLOWED", field=field)
