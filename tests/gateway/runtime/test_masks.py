"""What may not be kept: in the keeper without a process, then through a real one."""

import base64
import json
import os
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.agents.base import StdinMode, Stream
from gateway.core.journal import decode
from gateway.runtime import keeper
from tests.fakes.attempts import House, notes, records, said, wait_heard

SECRET = 'fgh_p/a+s"w\\örd'
PLAIN = "fgh_0123456789abcdef"
MARK = keeper.Masks.MASK

secrets = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=6, max_size=40).filter(
    lambda text: not text.isspace() and text.strip() == text
)
around = st.binary(max_size=20)


def as_json(text: str) -> bytes:
    return json.dumps({"said": text}).encode()


def as_json_of_javascript(text: str) -> bytes:
    return json.dumps({"said": text}, ensure_ascii=False).encode()


def as_json_in_json(text: str) -> bytes:
    return json.dumps({"line": json.dumps(text)}).encode()


def as_url(text: str) -> bytes:
    return urllib.parse.quote(text, safe="").encode()


def as_form(text: str) -> bytes:
    return urllib.parse.quote_plus(text).encode()


def as_base64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def as_basic_auth(text: str) -> bytes:
    return base64.b64encode(f"user:{text}\n".encode())


def as_base64_for_urls(text: str) -> bytes:
    return base64.urlsafe_b64encode(b"??" + text.encode() + b">>").rstrip(b"=")


SAID = [as_json, as_json_of_javascript, as_json_in_json, as_url, as_form, as_base64, as_basic_auth, as_base64_for_urls]


@pytest.mark.parametrize("how", [str.encode, *SAID])
@given(secret=secrets, before=around, after=around)
def test_a_secret_is_masked_however_it_is_said(how: Callable[[str], bytes], secret: str, before: bytes, after: bytes):
    masks = keeper.Masks([secret])
    form = how(secret)

    text, count = masks.mask(before + form + after)

    assert count >= 1
    assert not masks.is_in(text.replace(MARK, b"\n"))
    assert form not in text or form in MARK


@given(st.binary(max_size=200))
def test_where_no_secret_is_nothing_is_changed(text: bytes):
    assert keeper.Masks([PLAIN]).mask(text) == (text, 0)


def test_how_often_it_stood_there_is_counted_and_the_rest_stays():
    masks = keeper.Masks([PLAIN, PLAIN + "-longer", "other-secret"])

    assert masks.mask(f"a {PLAIN}-longer b {PLAIN} c other-secret{PLAIN}".encode()) == (b"a *** b *** c ******", 4)


def test_secrets_that_overlap_leave_nothing_of_each_other():
    masks = keeper.Masks(["abcdefgh", "efghijkl", "aaaaaa"])

    assert masks.mask(b"<abcdefghijkl> <aaaaaaaaa>") == (b"<***> <***>", 2)


def test_of_a_secret_of_several_lines_each_is_one():
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nabc\n-----END KEY-----"
    masks = keeper.Masks([key])

    assert [masks.mask(line.encode())[0] for line in key.splitlines()] == [b"***", b"***", b"abc", b"***"]
    assert masks.mask(as_json(key)) == (b'{"said": "***"}', 1)


@pytest.mark.parametrize("short", ["", "12345", "      ", "\n\n\n\n\n\n"])
def test_what_is_too_short_to_be_told_from_anything_else_is_not_masked(short: str):
    assert keeper.Masks([short]).forms == []


def test_the_codes_of_a_note_are_never_masked():
    masks = keeper.Masks(["stopping", "abc123", "run_timeout"])
    facts = {"note": "stopping", "reason": "run_timeout", "detail": "abc123!", "deep": [{"text": "stopping", "n": 1}]}

    masked, count = masks.mask_facts(facts)

    assert masked == {"note": "stopping", "reason": "run_timeout", "detail": "***!", "deep": [{"text": "***", "n": 1}]}
    assert count == 2


class InMemory(keeper.Journal):
    """Keeps what a journal would: masked, as `Journal` does it."""

    def __init__(self, masks: keeper.Masks) -> None:
        self.masks = masks
        self.seq = 0
        self.kept: list[tuple[bytes, int]] = []

    def output(self, stream: int, lines: list[bytes], flags: int) -> None:
        masked, _ = self._masked(stream, lines)
        self.kept += [(line, flags) for line in masked]


@settings(max_examples=20)  # of a megabyte each
@given(
    st.lists(st.tuples(st.integers(-60, 60), st.sampled_from([SECRET, PLAIN, "aaaaaa", "\n"])), max_size=5),
    st.integers(1, keeper.CHUNK),
)
def test_no_secret_is_cut_in_two_wherever_slices_and_chunks_end(places: list[tuple[int, str]], size: int):
    """Each is put near the end of a slice."""
    output = b""
    for number, (offset, text) in enumerate(places, 1):
        output = output.ljust(number * keeper.SLICE + offset, b".") + text.encode()
    masks = keeper.Masks([SECRET, PLAIN, "aaaaaa"])
    kept = InMemory(masks)
    lines = keeper.Lines(kept, keeper.OUT, masks)

    for start in range(0, len(output), size):
        lines.feed(output[start : start + size])
    lines.end()

    whole = b"".join(line + (b"" if flags else b"\n") for line, flags in kept.kept)
    assert not masks.is_in(whole.replace(MARK, b"\n"))
    assert whole.rstrip(b"\n") == masks.mask(output)[0].rstrip(b"\n")
    assert all(0 <= len(line) <= keeper.SLICE for line, _ in kept.kept)


def test_a_secret_that_repeats_itself_for_more_than_a_slice_is_masked_all_the_same():
    masks = keeper.Masks(["aaaaaa"])
    kept = InMemory(masks)
    lines = keeper.Lines(kept, keeper.OUT, masks)

    for _ in range(5):
        lines.feed(b"a" * keeper.CHUNK)
    lines.feed(b"a" * 40)
    lines.end()

    assert {line for line, _ in kept.kept} == {MARK}


def test_a_record_says_how_often_it_was_masked(tmp_path: Path):
    directory = os.open(tmp_path, os.O_RDONLY)
    book = keeper.Journal(directory, 1 << 20, keeper.Masks([PLAIN]))
    secret = PLAIN.encode()

    book.output(keeper.OUT, [b"one", secret + b" " + secret, b"three"], 0)
    book.output(keeper.ERR, [secret * 200], keeper.PARTIAL)
    assert book.take(keeper.IN, b"key-" + secret + b"\0" + secret)
    assert book.say(keeper.NOTE, {"note": "not_spawned", "detail": PLAIN})
    os.close(book.fd)
    os.close(directory)

    found, _, _ = decode((tmp_path / "journal").read_bytes(), 0)
    assert [(record.masked, record.partial) for record in found] == [
        *((0, False), (2, False), (0, False), (127, True), (1, False), (1, False)),
    ]
    assert found[1].data == b"*** ***"
    assert found[4].data == b"key-" + secret + b"\0***"  # keys are names of ours
    assert found[5].data == b'{"note":"not_spawned","detail":"***"}'


# --- through a real keeper ----------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as house:
        yield house


def on_disk(house: House, uid: str) -> bytes:
    files = [path for path in (house.home / "attempts" / uid).rglob("*") if path.is_file()]
    assert any(path.name == "journal" for path in files)
    return b"".join(path.read_bytes() for path in files)


@pytest.mark.parametrize("pieces", [1, 3, 7, 1000])
async def test_a_secret_said_in_pieces_does_not_reach_the_disk(house: House, pieces: int):
    env = {"SAY": f"before {SECRET} {as_basic_auth(SECRET).decode()} after\n{SECRET}"}
    keeper, found = await house.run("stutters", "--count", str(pieces), env=env, secrets=(SECRET, "unheard-of"))

    assert said(found)[1:] == [b"***"]
    assert said(found)[0].startswith(b"before *** ")
    assert [record.masked for record in found if record.stream is Stream.OUT] == [2, 1]
    assert SECRET.encode() not in on_disk(house, keeper.uid)


async def test_what_is_said_to_the_agent_and_noted_is_masked_on_disk_and_the_agent_gets_it(house: House):
    keeper = await house.start("echo", stdin=f"launch {PLAIN}\n".encode(), secrets=(PLAIN,))
    await wait_heard(keeper, b"echo: launch ***")
    assert await keeper.write("one", f"{PLAIN}\n".encode())
    assert await keeper.note("two", {"note": "refused", "text": f"it was {PLAIN}"})
    assert await keeper.write("end", b"", close=True)

    found = await records(keeper)
    assert said(found)[1:-1] == [b"echo: launch ***", b"echo: ***"]
    assert said(found, Stream.IN)[:2] == [b"launch\0launch ***\n", b"one\0***\n"]
    assert {"note": "refused", "text": "it was ***"} in notes(found)
    assert PLAIN.encode() not in on_disk(house, keeper.uid)


async def test_the_agent_itself_is_told_the_secret_unmasked(house: House):
    text = f"{PLAIN}\n".encode()
    _, found = await house.run("counts", stdin_mode=StdinMode.ONCE, stdin=text, secrets=(PLAIN,))

    assert said(found) == [str(len(text)).encode()]


async def test_a_secret_that_is_longer_than_a_slice_is_masked_in_pieces(house: House):
    secret = "".join(f"{number:08x}" for number in range(keeper.SLICE // 4))
    _, found = await house.run("echo", stdin=f"{secret}\n".encode(), stdin_mode=StdinMode.ONCE, secrets=(secret,))

    heard = b"".join(said(found)[1:-1])
    assert heard.removeprefix(b"echo: ").replace(MARK, b"") == b""
    assert b"00000010" not in b"".join(record.data for record in found)
