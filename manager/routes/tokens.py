"""`/api/auth`: tokens and join codes. A secret is made here, shown once, and kept as its SHA-256."""

import secrets
from typing import Any, Final

from litestar import Request, delete, get, post
from litestar.params import FromPath
from litestar.response import Response

from manager.errors import Invalid
from manager.ports import Clock, Token
from manager.routes.access import Action, hash_token
from manager.routes.bodies import Body
from manager.routes.replies import Reply
from manager.routes.services import services
from shared_types.api import (
    JoinCode,
    JoinCodeCreate,
    Joined,
    JoinRequest,
    TokenCreate,
    TokenCreated,
    TokenInfo,
    TokenKind,
)
from shared_types.ids import RANDOM_BYTES, new_id

TOKEN: Final = Body(TokenCreate)
CODE: Final = Body(JoinCodeCreate, is_optional=True)
JOIN: Final = Body(JoinRequest)
PREFIX: Final = {TokenKind.PERSONAL: "fgp_", TokenKind.HOST: "fgh_"}


def new_token(name: str, kind: TokenKind, host_id: str | None, clock: Clock) -> tuple[str, Token]:
    """The secret, and what may be kept of it."""
    secret = PREFIX[kind] + secrets.token_urlsafe(32)
    now = clock.now()
    info = TokenInfo(
        id=new_id("tok", now, secrets.token_bytes(RANDOM_BYTES)),
        name=name,
        kind=kind,
        host_id=host_id,
        created_at=now,
        last_used_at=None,
        revoked_at=None,
    )
    return secret, Token(info=info, hash=hash_token(secret))


@get("/api/auth/tokens", action=Action.ACCESS, operation_id="listTokens", summary="All tokens", tags=["access"])
async def list_tokens(request: Request[Any, Any, Any]) -> Response[list[TokenInfo]]:
    """Never the tokens themselves: those are shown once."""
    return Reply(await services(request).store.tokens())


@post(
    "/api/auth/tokens",
    action=Action.ACCESS,
    body=TOKEN,
    operation_id="createToken",
    summary="A new token",
    tags=["access"],
)
async def create_token(request: Request[Any, Any, Any]) -> Response[TokenCreated]:
    """The answer is the only place where the token is ever shown."""
    wish = await TOKEN.read(request)
    if (wish.kind is TokenKind.HOST) != (wish.host_id is not None):
        raise Invalid("A host token needs a hostId, a personal token has none.", code="INVALID_FIELD", field="$.hostId")
    s = services(request)
    secret, token = new_token(wish.name, wish.kind, wish.host_id, s.clock)
    await s.store.add_token(token)
    return Reply(TokenCreated(token=secret, info=token.info), status=201)


@delete(
    "/api/auth/tokens/{token_id:str}",
    action=Action.ACCESS,
    operation_id="revokeToken",
    summary="Revoke a token",
    status_code=200,
    tags=["access"],
)
async def revoke_token(request: Request[Any, Any, Any], token_id: FromPath[str]) -> Response[TokenInfo]:
    """Counts at once: open streams of this token end, and so does a host's link when it was the host's last token."""
    s = services(request)
    info = await s.store.revoke_token(token_id, s.clock.now())
    s.access.forget(info.id)
    s.doors.put_out(info.id)
    if info.host_id is not None:
        await s.hosts.put_out(info.host_id)
    return Reply(info)


@post(
    "/api/auth/join-codes",
    action=Action.ACCESS,
    body=CODE,
    operation_id="createJoinCode",
    summary="A code for one new host",
    tags=["access"],
)
async def create_join_code(request: Request[Any, Any, Any]) -> Response[JoinCode]:
    """For `fleetgate join URL CODE`. Good for one host, for a while."""
    wish = await CODE.read(request)
    s = services(request)
    code = "fgj_" + secrets.token_urlsafe(18)
    expires_at = s.clock.now() + wish.ttl
    await s.store.add_join_code(hash_token(code), expires_at=expires_at, labels=wish.labels)
    return Reply(JoinCode(code=code, expires_at=expires_at), status=201)


@post(
    "/api/auth/join",
    action=Action.PUBLIC,
    body=JOIN,
    operation_id="join",
    summary="Become a host",
    tags=["access"],
)
async def join(request: Request[Any, Any, Any]) -> Response[Joined]:
    """The code is the credential and is used up. Answers a host token, bound to its host id."""
    wish = await JOIN.read(request)
    s = services(request)
    host_id = wish.host_id or new_id("host", s.clock.now(), secrets.token_bytes(RANDOM_BYTES))
    secret, token = new_token(wish.name, TokenKind.HOST, host_id, s.clock)
    labels = await s.store.redeem_join_code(hash_token(wish.code), host_id=host_id, token=token, now=s.clock.now())
    return Reply(Joined(host_id=host_id, token=secret, url=_dial_url(request), labels=labels), status=201)


def _dial_url(request: Request[Any, Any, Any]) -> str:
    """Where a host dials: the way this request came, or as the operator says."""
    public = services(request).config.public_url
    base = public.rstrip("/") if public else f"{request.url.scheme}://{request.url.netloc}"
    return "ws" + base.removeprefix("http")


ROUTES: Final = [list_tokens, create_token, revoke_token, create_join_code, join]
