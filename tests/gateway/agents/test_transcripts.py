"""What people see of the real agents' runs: the recordings, read by scenario. The same for all where it can be."""

import runpy
from pathlib import Path

import pytest

from gateway.agents.base import End
from gateway.agents.catalogue import TESTED
from shared_types.tasks import Reason
from tests.gateway.agents.recorded import ROOT, Told, all_transcripts, load

CONVERSATIONS = ["claude-code", "opencode", "gemini"]
EVERY = [*CONVERSATIONS, *(f"{name}-oneshot" for name in CONVERSATIONS)]
each_driver = pytest.mark.parametrize("driver", EVERY)
each_conversation = pytest.mark.parametrize("driver", CONVERSATIONS)


def told(driver: str, scenario: str) -> Told:
    return load(ROOT / driver / f"{scenario}.jsonl").told()


PACKAGES = {"opencode-linux-": "opencode", "@anthropic-ai/claude-code-": "claude-code", "@google/gemini-cli": "gemini"}


def test_they_were_made_by_the_versions_that_are_tested_with() -> None:
    pins = runpy.run_path(str(Path(__file__).parents[3] / "dev"))["AGENTS"]
    pinned = {name: pin.rpartition("@")[2] for pin in pins for start, name in PACKAGES.items() if pin.startswith(start)}

    made_by = {(transcript.driver.removesuffix("-oneshot"), transcript.version) for transcript in all_transcripts()}

    assert pinned == TESTED
    assert made_by == set(TESTED.items()), "run ./dev record"


@each_driver
def test_a_plain_answer(driver: str) -> None:
    story = told(driver, "text")

    assert story.finals() == ["Good morning, fleet. This sentence is longer than one piece of a stream."]
    assert (story.evidence.end, story.evidence.answer) == (End.OK, story.finals()[0])
    assert story.evidence.session_id
    assert story.data("usage", "outputTokens") == [7]
    assert story.of("error") == []


@each_conversation
def test_an_answer_is_seen_while_it_is_written(driver: str) -> None:
    story = told(driver, "text")

    assert len([event for event in story.of("message") if event.data and event.data["delta"]]) > 1
    assert story.deltas() == story.finals()[0]


@each_conversation
def test_thinking_is_told_apart_from_the_answer(driver: str) -> None:
    story = told(driver, "thinking")

    assert [(text or "").removeprefix("****\n") for text in story.finals("thinking")] == ["let me see"]
    assert story.finals() == ["forty-two"]


@each_driver
def test_a_written_and_edited_file(driver: str) -> None:
    story = told(driver, "write")

    assert set(story.data("file_change", "path")) == {"note.txt"}
    assert story.evidence.files_changed == ("note.txt",)
    assert "edit" in story.data("tool_call", "kind")
    assert story.evidence.end is End.OK


@each_conversation
def test_a_created_file_is_told_from_a_changed_one_with_its_diff(driver: str) -> None:
    story = told(driver, "write")

    assert story.data("file_change", "op") == ["create", "update"]
    created, changed = story.data("file_change", "diff")
    assert created.endswith("+one\n+two\n")
    assert "-two\n+three\n" in changed


@each_driver
def test_a_command_that_fails(driver: str) -> None:
    story = told(driver, "command")
    (result,) = story.of("tool_result")

    assert story.data("tool_call", "kind") == ["execute"]
    assert "echo err" in story.data("tool_call", "title")[0]
    assert "out" in (result.content or "")
    if not driver.startswith("gemini"):  # which does not say how a command ended
        assert result.data is not None
        assert (result.data["ok"], result.data["exitCode"]) == (False, 3)
    assert story.finals() == ["It failed."]
    assert story.evidence.end is End.OK


@each_conversation
def test_two_commands_at_once(driver: str) -> None:
    story = told(driver, "parallel")

    assert len(story.of("tool_call")) == len(story.of("tool_result")) == 2
    assert {(event.content or "").strip() for event in story.of("tool_result")} == {"one", "two"}


@pytest.mark.parametrize("scenario", ["asked-default", "asked-edits", "asked-plan", "asked-deny", "asked-bypass"])
@each_conversation
def test_each_ask_has_one_answer_and_follows_the_mode(driver: str, scenario: str) -> None:
    story = told(driver, scenario)
    asks = story.data("approval", "id")

    assert len(asks) == len(set(asks))
    allowed = {"asked-bypass": {"edit", "execute"}, "asked-edits": {"edit"}}.get(scenario, set())
    kinds = dict(zip(story.data("tool_call", "id"), story.data("tool_call", "kind"), strict=True))
    for ask, decision in zip(asks, story.data("approval", "decision"), strict=True):
        assert decision == ("allow" if kinds[ask] in allowed else "deny")


@each_conversation
def test_default_plan_and_deny_change_nothing(driver: str) -> None:
    for scenario in ("asked-default", "asked-plan", "asked-deny"):
        story = told(driver, scenario)

        assert story.of("file_change") == []
        assert not [event for event in story.of("tool_result") if event.data and event.data["ok"]]


@each_driver
def test_bypass_does_all_of_it(driver: str) -> None:
    story = told(driver, "asked-bypass")

    assert story.evidence.files_changed == ("asked.txt",)
    assert story.evidence.denied == ()
    assert story.evidence.finished_after_denial


@each_conversation
def test_accepted_edits_are_made_and_other_asks_are_not_granted(driver: str) -> None:
    story = told(driver, "asked-edits")

    assert story.evidence.files_changed == ("asked.txt",)
    if driver != "claude-code":  # which takes a `touch` for an edit
        assert len(story.evidence.denied) == 1


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("model-500", Reason.PROVIDER_ERROR),
        ("model-429", Reason.RATE_LIMIT),
        ("model-401", Reason.PROVIDER_AUTH),
    ],
)
@each_conversation
def test_a_model_that_fails_is_an_error_with_its_reason(driver: str, scenario: str, reason: Reason) -> None:
    story = told(driver, scenario)

    assert (story.evidence.end, story.evidence.reason) == (End.ERROR, reason)
    assert story.data("error", "code") == [reason]
    assert story.data("error", "fatal") == [True]
    assert story.evidence.error == story.of("error")[0].content
    assert story.finals() == []


@pytest.mark.parametrize("driver", [name for name in EVERY if name.endswith("-oneshot")])
def test_a_one_shot_run_that_fails_says_why(driver: str) -> None:
    story = told(driver, "model-401")

    assert (story.evidence.end, story.evidence.reason) == (End.ERROR, Reason.PROVIDER_AUTH)


@pytest.mark.parametrize("scenario", ["model-500", "model-429"])
@each_conversation
def test_tries_are_seen_and_bounded(driver: str, scenario: str) -> None:
    story = told(driver, scenario)
    warnings = [event.content or "" for event in story.of("log") if event.data and event.data["level"] == "warning"]

    assert 3 <= len(warnings) <= 4
    assert all(text.startswith("the model ") for text in warnings)


@each_conversation
def test_one_failure_of_the_model_is_survived_and_told(driver: str) -> None:
    story = told(driver, "model-500-once")

    assert story.finals() == ["second time lucky"]
    assert story.evidence.end is End.OK
    assert [event for event in story.of("log") if "the model " in (event.content or "")]


@pytest.mark.parametrize("driver", ["claude-code", "opencode"])
def test_an_answer_that_broke_off_is_asked_for_again(driver: str) -> None:
    story = told(driver, "model-cut-once")

    assert story.finals() == ["whole at last"]
    assert story.evidence.answer == "whole at last"


def test_an_answer_that_broke_off_for_good_is_not_a_final_one() -> None:
    story = told("gemini", "model-cut-once")  # it does not try again

    assert story.deltas() == "half of an ans"
    assert (story.finals(), story.evidence.answer) == ([], "")
    assert story.evidence.reason is Reason.PROVIDER_ERROR


@each_conversation
def test_an_aborted_tool_has_no_good_result(driver: str) -> None:
    story = told(driver, "abort-tool")

    assert [event for event in story.of("tool_result") if event.data and event.data["ok"]] == []
    assert story.of("error") == []


@each_driver
def test_odd_text_arrives_as_the_model_wrote_it(driver: str) -> None:
    (final,) = told(driver, "odd-text").finals()

    assert final is not None
    assert "sep\u2028arated \U0001f680 end" in final


@each_driver
def test_bytes_that_are_not_text_become_replacement_characters(driver: str) -> None:
    assert told(driver, "not-utf8").finals() == ["bad \ufffd byte"]


@each_driver
def test_a_big_answer_is_whole(driver: str) -> None:
    (final,) = told(driver, "big").finals()

    assert final is not None
    assert len(final) == 20 * 1024
