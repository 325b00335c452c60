"""Who may do what: opaque bearer tokens, one rule table, one `authorize` for every request, stream and message.

Tokens are known by their SHA-256 alone. What was looked up is believed for a few seconds, but a revocation in this
process counts at once. Invariants: a handler without an `action` is refused; a token never stands in a URL; a
browser of a foreign origin writes nothing and opens no socket.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, cast

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from manager.errors import Forbidden, Invalid
from manager.ports import Clock, Store
from manager.routes.parameters import check_query
from manager.routes.problems import Unauthorized, deny
from shared_types.api import TokenKind

BELIEVED_S: Final = 10.0  # how long a token revoked by another process may live on
TOUCH_S: Final = 60.0  # how often "last used" is written
MAX_KNOWN: Final = 4096


class Action(StrEnum):
    """What can be done. Every route and every message of `/ws` names one."""

    PUBLIC = "public"  # needs no token
    TASK_READ = "task:read"
    TASK_CREATE = "task:create"
    TASK_STEER = "task:steer"  # abort, input, retry
    HOST_READ = "host:read"
    HOST_STEER = "host:steer"  # drain, resume
    ACCESS = "access"  # tokens and join codes
    METRICS = "metrics"
    LINK = "link"  # speak as a host


MAY: Final[Mapping[TokenKind, frozenset[Action]]] = {
    TokenKind.PERSONAL: frozenset(Action) - {Action.LINK},
    TokenKind.HOST: frozenset({Action.PUBLIC, Action.LINK}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who speaks. `id` is the token's."""

    id: str
    name: str
    kind: TokenKind
    host_id: str | None = None


def authorize(principal: Principal, action: Action) -> None:
    """Raises Forbidden."""
    if action not in MAY[principal.kind]:
        if action is Action.LINK:
            raise Forbidden(
                "A personal token cannot speak for a host.",
                code="NOT_A_HOST_TOKEN",
                hint="Join this machine with `fleetgate join URL CODE`, or create a token of kind host.",
            )
        raise Forbidden(
            "A host token is good for the link alone.", code="HOST_TOKEN", hint="Use a personal token (fgp_...)."
        )


def hash_token(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Access:
    """Turns a token into a principal."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: OrderedDict[str, tuple[Principal, float]] = OrderedDict()
        self._touched: OrderedDict[str, float] = OrderedDict()

    async def principal(self, token: str) -> Principal:
        """Raises Unauthorized."""
        digest = hash_token(token)
        now = self._clock.monotonic()
        held = self._known.get(digest)
        if held is not None and now < held[1]:
            return held[0]
        self._known.pop(digest, None)
        found = await self._store.token(digest)
        if found is None:
            raise Unauthorized("This token is not known here.", hint="Check for a typo, or ask for a new one.")
        info = found.info
        if info.revoked_at is not None:
            raise Unauthorized("This token was revoked.", code="REVOKED", hint="Ask for a new one.")
        principal = Principal(info.id, info.name, info.kind, info.host_id)
        self._known[digest] = (principal, now + BELIEVED_S)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        await self._touch(info.id, now)
        return principal

    async def admit(self, headers: Mapping[bytes, bytes], action: Action) -> Principal:
        """Whoever shows a token that may do this. Raises Unauthorized, Forbidden."""
        scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        token = token.strip()
        if not token or scheme.lower() != "bearer":
            raise Unauthorized("This needs a token.", hint="Send the header Authorization: Bearer <token>.")
        principal = await self.principal(token)
        authorize(principal, action)
        return principal

    def forget(self, token_id: str) -> None:
        """From now on this token is looked up again: it was revoked."""
        for digest, (principal, _) in list(self._known.items()):
            if principal.id == token_id:
                del self._known[digest]

    async def _touch(self, token_id: str, now: float) -> None:
        if now - self._touched.get(token_id, float("-inf")) < TOUCH_S:
            return
        self._touched[token_id] = now
        self._touched.move_to_end(token_id)
        if len(self._touched) > MAX_KNOWN:
            self._touched.popitem(last=False)
        await self._store.touch_token(token_id, self._clock.now())


SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_SECRET_NAMES: Final = (b"token=", b"access_token=", b"jwt=", b"authorization=", b"api_key=", b"apikey=", b"code=")


def refuse_secrets_in_url(query: bytes) -> None:
    """Raises Invalid. URLs end in logs, histories and referers."""
    for part in query.lower().split(b"&"):
        if part.startswith(_SECRET_NAMES):
            raise Invalid(
                f"`{part.partition(b'=')[0].decode('ascii', 'replace')}` does not belong into a URL; nothing was done "
                "with it.",
                code="TOKEN_IN_URL",
                hint="Send it as a header: Authorization: Bearer <token>. Take that token for known and revoke it.",
            )


def refuse_foreign_origin(headers: Mapping[bytes, bytes], origins: frozenset[str]) -> None:
    """Raises Forbidden. Programs send no Origin; browsers always do when it matters, and cannot lie about it."""
    origin = headers.get(b"origin")
    if origin is None:
        if headers.get(b"sec-fetch-site", b"none") in (b"cross-site", b"same-site"):
            raise Forbidden("A page of another site may not do this.", code="FOREIGN_ORIGIN")
        return
    name = origin.decode("latin-1")
    if name not in origins:
        raise Forbidden(
            f"A page of the origin {name[:200]} may not do this.",
            code="FOREIGN_ORIGIN",
            hint="Add the origin to MANAGER_ORIGINS if it is yours.",
        )


class AccessMiddleware(ASGIMiddleware):
    """Runs for every matched route, HTTP and WebSocket alike: the origin, the token, the rule."""

    scopes = (ScopeType.HTTP, ScopeType.WEBSOCKET)

    def __init__(self, access: Access, origins: frozenset[str]) -> None:
        self._access = access
        self._origins = origins

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        try:
            principal = await self._check(scope)
        except Exception as error:
            # Answered here, not by Litestar: its answer to a handshake would be a bare 403 without a reason.
            await deny(scope, receive, send, error)
            return
        cast(dict[str, Any], scope)["user"] = principal
        await next_app(scope, receive, send)

    async def _check(self, scope: Scope) -> Principal | None:
        headers = dict(scope["headers"])
        method = cast(dict[str, Any], scope).get("method")
        if scope["query_string"]:
            refuse_secrets_in_url(scope["query_string"])
            if method != "OPTIONS":
                check_query(scope)
        if method not in SAFE_METHODS:  # a WebSocket handshake has no method here
            refuse_foreign_origin(headers, self._origins)
        action = scope["route_handler"].opt.get("action")
        if action is Action.PUBLIC or (method == "OPTIONS" and action is None):
            return None
        if action is None:
            raise Forbidden("This route has no rule, so nobody may use it.", code="NO_RULE")
        return await self._access.admit(headers, action)


def principal_of(scope: Any) -> Principal:
    return cast(Principal, scope["user"])
