"""Words and diffs for people."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.agents import events

lines = st.lists(st.sampled_from(["a", "b", "c", "", "long line"]), max_size=8).map(
    lambda ls: "".join(f"{x}\n" for x in ls)
)


def applied(old: str, diff: str) -> str:
    """What `patch` makes of a diff with one hunk."""
    before = old.split("\n")[:-1]
    head, *body = diff.split("\n")[2:-1]
    first = max(0, int(head.split()[1].split(",")[0].lstrip("-")) - 1)
    kept = [line[1:] for line in body if line[0] in " -"]
    made = [line[1:] for line in body if line[0] in " +"]
    assert before[first : first + len(kept)] == kept
    return "".join(f"{line}\n" for line in [*before[:first], *made, *before[first + len(kept) :]])


@given(lines, lines)
def test_a_diff_turns_the_old_text_into_the_new(old: str, new: str) -> None:
    assert applied(old, events.unified("f", old, new)) == new


def test_a_diff_shows_three_lines_around_a_change_in_a_long_file() -> None:
    old = "".join(f"{n}\n" for n in range(100))

    diff = events.unified("f", old, old.replace("50\n", "fifty\n"))

    assert diff.split("\n")[2] == "@@ -48,7 +48,7 @@"
    assert len(diff.split("\n")) == 12


def test_a_title_is_one_short_line_without_controls() -> None:
    title = events.one_line("rm -r \x1b[31mbuild\x1b[0m &&\n\tmake " + "x" * 1000)

    assert title.startswith("rm -r build && make xxx")
    assert len(title) == events.MAX_TITLE


def test_paths_outside_are_shown_whole_and_look_alikes_too() -> None:
    assert events.within("/work", "/work/../etc/passwd") == "/etc/passwd"
    assert events.within("/work", "/workshop/a") == "/workshop/a"
    assert events.within("/", "/a/b") == "a/b"


def test_a_title_with_half_a_character_can_travel() -> None:
    title = events.title_of("Bash", {"command": "echo \ud800"})

    assert events.one_line(title) == "Bash: echo ?"
