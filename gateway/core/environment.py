"""The environment of an agent, built from nothing.

    base names of the host  <  names the host's owner allows and the agent needs  <  fixed  <  the task's own  <
    the agent kind's

Names of the first two rows are taken from the gateway's own environment when they are set there. A task may not
set names that change how programs load, where they look or whom they trust; it is refused with the name.

Invariant: nothing that belongs to Fleetgate itself reaches an agent, whoever allows it.
"""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

from gateway.errors import CannotRun
from shared_types.tasks import Reason

# What any program needs to run as the person it runs as.
BASE_NAMES: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ"),
    *("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"),
)
FIXED: Final = {"CI": "1", "NO_COLOR": "1", "TERM": "dumb"}
OURS: Final = ("GATEWAY_*", "FLEETGATE_*", "MANAGER_*", "JWT_SECRET*", "DATABASE_URL*", "REDIS_URL*", "CREDENTIALS_*")

# Names a task may not set. Kinds of harm: what is loaded; where programs and settings are looked for; whom is
# trusted or asked; what an agent may do.
REFUSED: Final = (
    *("LD_*", "DYLD_*", "GCONV_PATH", "GETCONF_DIR", "GLIBC_*", "MALLOC_*", "NIS_PATH", "RESOLV_HOST_CONF"),
    *("LOCPATH", "NLSPATH", "HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS", "OPENSSL_*"),
    *("PYTHON*", "NODE_*", "BUN_*", "DENO_*", "NPM_*", "PERL*", "RUBY*", "GEM_*", "BUNDLE_*", "JAVA_*", "_JAVA_*"),
    *("JDK_*", "CLASSPATH", "MAVEN_*", "GRADLE_*", "PHPRC", "PHP_*", "LUA_*", "CARGO_*", "RUSTC*", "RUSTFLAGS"),
    *("GOPATH", "GOROOT", "GOBIN", "GOENV", "GOFLAGS", "GOTOOL*", "GOPROXY", "GOSUMDB", "GOINSECURE", "GONO*"),
    *("BASH_*", "ENV", "ZDOTDIR", "SHELLOPTS", "BASHOPTS", "PROMPT_COMMAND", "PS4", "IFS", "CDPATH", "FPATH"),
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "TMPDIR", "TMP", "TEMP", "XDG_*"),
    *(
        "GIT_*",
        "SSH_*",
        "GPG_*",
        "GNUPGHOME",
        "EDITOR",
        "VISUAL",
        "PAGER",
        "MANPAGER",
        "LESSOPEN",
        "LESSCLOSE",
        "BROWSER",
    ),
    *("*_BASE_URL", "*_API_URL", "*_ENDPOINT", "*_PROXY", "*_CA_BUNDLE", "*_CA_CERTS", "SSL_*", "CURL_*", "WGETRC"),
    *("*_ENDPOINT_*", "*_UNIX_SOCKET", "*_METADATA_HOST", "*_METADATA_IP", "*_AUTHORITY_HOST", "GRPC_*"),
    *("AWS_CONFIG_FILE", "AWS_SHARED_*", "CLOUDSDK_*", "GOOGLE_EXTERNAL_*", "DOCKER_*", "KUBECONFIG"),
    *("PIP_*", "UV_*", "YARN_*", "COREPACK_*", "DOTNET_*", "CORECLR_*", "COMPLUS_*", "MAKEFLAGS", "TAR_OPTIONS"),
    *("RIPGREP_CONFIG_PATH", "VIMINIT", "EXINIT", "SUDO_ASKPASS", "SELF_HOSTED_RUNNER_*", "GEMINI_*_MD", "SANDBOX*"),
    *("CLAUDE*", "OPENCODE*", "GEMINI_CLI*", "GEMINI_SANDBOX*", "IS_SANDBOX", "DISABLE_*", *OURS),
)
MAX_VALUE: Final = 32 * 1024
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of these, or fits one with a star; lower case counts as upper, as with `http_proxy`.

    >>> matches("http_proxy", ["*_PROXY"]), matches("LC_ALL", ["LC_*"]), matches("GOAL", ["GOPATH"])
    (True, True, False)
    """
    upper = name.upper()
    return any(fnmatchcase(upper, pattern.upper()) for pattern in patterns)


def check(task_env: Mapping[str, str], allowed: Iterable[str] | None) -> None:
    """Raises CannotRun env_not_allowed with the name. `allowed`: the only names a task may set here; None: any
    that is not refused everywhere.
    """
    for name, value in task_env.items():
        if not _NAME.fullmatch(name):
            raise CannotRun(Reason.ENV_NOT_ALLOWED, f"{name[:64]!r} is not a name of an environment variable")
        if matches(name, REFUSED):
            raise CannotRun(Reason.ENV_NOT_ALLOWED, f"a task may not set {name}")
        if allowed is not None and not matches(name, allowed):
            raise CannotRun(Reason.ENV_NOT_ALLOWED, f"this host does not let a task set {name}")
        if "\0" in value or len(value) > MAX_VALUE:
            raise CannotRun(Reason.ENV_NOT_ALLOWED, f"the value of {name} has a NUL or is longer than {MAX_VALUE}")


def of_host(host: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """What of the gateway's own environment an agent may see: the base names and `names`, and nothing of ours."""
    wanted = (*BASE_NAMES, *names)
    return {name: value for name, value in host.items() if matches(name, wanted) and not matches(name, OURS)}


def build(
    host: Mapping[str, str], task_env: Mapping[str, str], launch_env: Mapping[str, str], tmp: str
) -> dict[str, str]:
    """The whole environment. `host` is what `of_host` gave, `tmp` the attempt's own directory for temporary files."""
    return {**host, **FIXED, "TMPDIR": tmp, **task_env, **launch_env}
