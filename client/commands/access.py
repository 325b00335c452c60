"""Who may: login, token, config."""

import sys

import rich_click as click

from client.clock import now_ms
from client.desk import Desk, command


@command("login", url=False)
@click.argument("url", required=False)
async def login(desk: Desk, url: str | None) -> None:
    """Keep the manager's address and a token (asked for, or read from stdin). Made by `fleetgate token create`."""
    from client.access import home_of, is_loopback, keep_access, normal_url
    from client.errors import BadUsage
    from client.sdk import AsyncFleetgate

    address = normal_url(url) if url else AsyncFleetgate(None, "").url
    if address.startswith("http://") and not is_loopback(address):
        desk.console.say(f"{address} is not encrypted: the token can be read on the way", "warn")
    token = (_ask_token() if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if not token or not token.isascii() or not token.isprintable():
        raise BadUsage("that is no token", hint="It begins with fgp_; `fleetgate token create NAME` makes one.")
    async with AsyncFleetgate(address, token) as fleet:
        await fleet.tokens()  # needs a good token, unlike health
    path = keep_access(home_of(), address, token)
    if desk.console.as_json:
        desk.console.document({"url": address, "file": str(path)})
    else:
        desk.console.say(f"logged in to {address}; kept in {path}")


def _ask_token() -> str:
    return str(click.prompt("Token", hide_input=True, err=True))


@click.group("token")
def token() -> None:
    """Tokens of people, programs and hosts."""


@command("create", quiet="The token only.")
@click.argument("name")
@click.option(
    "--host", "host_id", metavar="ID", help="A token for the gateway with this host id, and for nothing else."
)
async def create(desk: Desk, name: str, host_id: str | None) -> None:
    """Make a token. It is shown this once."""
    from shared_types.api import TokenKind

    kind = TokenKind.HOST if host_id else TokenKind.PERSONAL
    async with desk.fleet() as fleet:
        made = await fleet.create_token(name, kind=kind, host_id=host_id)
    if desk.console.as_json:
        desk.console.document(made)
    else:
        desk.console.put(made.token)
        desk.console.say("keep it: it is shown this once")


@command("ls", quiet="Ids only.")
@click.option("-a", "--all", "everything", is_flag=True, help="Also revoked ones.")
async def token_ls(desk: Desk, everything: bool) -> None:
    """List tokens; never the tokens themselves."""
    from client.terminal.columns import Cell, Column, Row
    from client.terminal.escapes import one_line
    from client.terminal.times import ago
    from client.terminal.words import beginnings

    async with desk.fleet() as fleet:
        found = [one for one in await fleet.tokens() if everything or one.revoked_at is None]
    console = desk.console
    if console.as_json:
        console.document(found)
        return
    if console.quiet:
        for one in found:
            console.put(one.id)
        return
    now = now_ms()
    shorts = beginnings((one.id for one in found), least=16)
    rows: list[Row] = [
        [
            shorts[one.id],
            one_line(one.name),
            one.kind,
            one.host_id or "-",
            ago(one.created_at, now),
            ago(one.last_used_at, now),
            Cell("revoked", "bad") if one.revoked_at is not None else Cell("good", "good"),
        ]
        for one in found
    ]
    columns = [
        Column("ID"),
        Column("NAME", shrinks=True),
        Column("KIND", leaves=3),
        Column("HOST", shrinks=True, leaves=1),
        Column("CREATED", right=True, leaves=4),
        Column("USED", right=True, leaves=2),
        Column("STATE"),
    ]
    console.table(columns, rows)


@command("revoke")
@click.argument("token_id", metavar="ID")
async def revoke(desk: Desk, token_id: str) -> None:
    """Make a token useless, at once. ID as `token ls` shows it, or its name."""
    from client.arguments import pick

    async with desk.fleet() as fleet:
        known = [(one.id, one.name) for one in await fleet.tokens() if one.revoked_at is None]
        gone = await fleet.revoke_token(pick(known, token_id, "token"))
    if desk.console.as_json:
        desk.console.document(gone)
    else:
        desk.console.say(f"{gone.name} ({gone.id}) is revoked")


token.add_command(create)
token.add_command(token_ls)
token.add_command(revoke)


def masked(secret: str | None) -> str | None:
    """
    >>> masked("fgp_abcdefghijklmnop")
    'fgp_…mnop'
    """
    if secret is None:
        return None
    return f"{secret[:4]}…{secret[-4:]}" if len(secret) >= 16 else "…"


@command("config")
def config(desk: Desk) -> None:
    """Which manager and token are used, and where each comes from."""
    from client.access import find_access, home_of

    home = home_of()
    found = find_access(desk.url)
    facts = {
        "home": str(home),
        "url": found.url,
        "urlFrom": found.url_from,
        "token": masked(found.token),
        "tokenFrom": found.token_from,
        "clientFile": str(home / "client.toml"),
        "gatewayFile": str(home / "gateway.toml"),
    }
    if desk.console.as_json:
        desk.console.document(facts)
        return
    desk.console.put(f"home     {facts['home']}")
    desk.console.put(f"url      {facts['url']}  (from {facts['urlFrom']})")
    desk.console.put(f"token    {facts['token'] or 'none'}  (from {facts['tokenFrom']})")
    desk.console.put(f"files    {facts['clientFile']}, {facts['gatewayFile']}")
