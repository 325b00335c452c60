"""The commands as a shell sees them: exit codes, what is on stdout and what on stderr, JSON, ids alone."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import client.supervisor
from client.cli import COMMANDS, GROUPS, run
from client.clock import now_ms
from client.commands.tasks import short_ids
from client.console import Console
from shared_types import __version__
from tests.client.fake_api import FakeApi, a_host
from tests.client.fake_manager import FakeManager, a_task, an_event

TASK = a_task()["id"]
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "FLEETGATE_HOME": "/nonexistent"}


def stream_of(*events: dict[str, Any], **fields: Any) -> bytes:
    """The stream of a task that ends."""
    manager = FakeManager(events=list(events), task=a_task(**fields))
    return manager.body(0)


def ended(status: str, *events: dict[str, Any], **fields: Any) -> bytes:
    return stream_of(*events, **fields).replace(b'"status": "completed"', b'"status": "%b"' % status.encode())


@pytest.fixture
def task(api: FakeApi) -> FakeApi:
    """A manager with one host and one task that answers and completes."""
    events = [an_event(1, "thinking", content="hm", data={"delta": False}), an_event(2, content="the answer")]
    api.answer("GET", "/api/hosts", [a_host()])
    api.answer("GET", "/api/hosts/h1", a_host())
    api.answer("POST", "/api/tasks", a_task(), status=201)
    api.answer("GET", f"/api/tasks/{TASK}", a_task())
    api.answer("GET", f"/api/tasks/{TASK}/events", stream_of(*events))
    return api


# --- the program ------------------------------------------------------------------------------------


def test_version_says_what_it_is(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"fleetgate {__version__}\n"


def test_version_and_help_import_nothing_heavy():
    code = (
        "import sys; from client.cli import run; run(['--version']);"
        " print(sorted({'httpx', 'anyio', 'msgspec', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)

    assert done.stdout.splitlines() == [f"fleetgate {__version__}", "[]"]


def test_python_m_client_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "client", "--version"], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )

    assert done.stdout == f"fleetgate {__version__}\n"


def test_help_lists_every_command_in_some_group(capsys):
    assert run(["--help"]) == 0
    told = capsys.readouterr().out

    assert {name for names in GROUPS.values() for name in names} == set(COMMANDS)
    assert all(f" {name} " in told for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"manager", "gateway"}))
def test_every_command_explains_itself(name: str, capsys):
    assert run([name, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


A_DASH = "A text that begins with - needs a -- before it: -- '-1...'"


@pytest.mark.parametrize(
    ("arguments", "detail", "hint"),
    [
        (["run", "-1 is negative"], "No such option '-1'.", A_DASH),
        (["send", "ID", "-1"], "No such option '-1'.", A_DASH),
        (["run", "x", "--modal", "m"], "No such option '--modal'.", "Did you mean --model or --mode?"),
        (["ls", "-x"], "No such option '-x'.", "See fleetgate ls --help."),
        (["--url", "x", "ls"], "No such option '--url'.", "Options stand behind the command: fleetgate ls --url"),
        (["run"], "Missing argument 'PROMPT'.", "See fleetgate run --help."),
        (["log"], "No such command 'log'.", "Did you mean fleetgate logs?"),
        (["token", "rewoke"], "No such command 'rewoke'.", "Did you mean fleetgate token revoke?"),
        (["frobnicate"], "No such command 'frobnicate'.", "See fleetgate --help."),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_wrong_usage_is_told_in_a_sentence_and_a_hint(arguments: list[str], detail: str, hint: str, capsys):
    assert run(arguments) == 2

    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"error: {detail}\nhint: {hint}\n")


def test_a_prompt_that_begins_with_a_dash_goes_behind_two(api: FakeApi):
    api.answer("POST", "/api/tasks", a_task(), status=201)

    assert run(["run", "-d", "-a", "count", "--", "-1 is negative"]) == 0
    assert api.sent("POST", "/api/tasks")[0]["prompt"] == "-1 is negative"


def test_nothing_is_listed_that_is_not_there_yet():
    assert not {"permit", "sessions", "diff", "service", "drill"} & set(COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell: str, capsys):
    assert run(["completion", shell]) == 0
    assert "_FLEETGATE_COMPLETE" in capsys.readouterr().out


def test_completion_completes_commands():
    env = {**ENVIRONMENT, "_FLEETGATE_COMPLETE": "bash_complete", "COMP_WORDS": "fleetgate dr", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "client"], capture_output=True, text=True, check=False, env=env)

    # The name it completes for is that of the program as it was called; under `python -m` it is the same one.
    assert done.stdout == "plain,drain\n"


# --- exit codes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["nope"], ["ls", "--nope"], ["show"], ["run", "x", "--priority", "12"]])
def test_what_cannot_be_meant_so_is_2(arguments: list[str], capsys):
    assert run(arguments) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("status", "code"), [(400, 2), (401, 4), (403, 4), (404, 3), (409, 1), (429, 1), (500, 69), (503, 69)]
)
def test_each_refusal_has_its_exit_code_and_says_what_to_do(api: FakeApi, status: int, code: int, capsys):
    api.refuse("GET", "/api/tasks/x", status, "SOME", "that is so", hint="do this")

    assert run(["show", "x"]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "error: that is so\nhint: do this\n"


def test_bad_fields_are_named_and_nothing_is_said_twice(api: FakeApi, capsys):
    fields = [{"key": "$.cwd", "message": "is not there"}, {"key": "x", "message": "that is so"}]
    api.refuse("GET", "/api/tasks/x", 400, "SOME", "that is so", errors=fields)
    run(["show", "x"])

    assert capsys.readouterr().err == "error: that is so\nerror: $.cwd: is not there\n"


def test_no_manager_is_69_and_says_how_to_start_one(capsys):
    assert run(["ls", "--url", "http://127.0.0.1:1"]) == 69
    assert "fleetgate up" in capsys.readouterr().err


def test_a_broken_file_is_78(home: Path, capsys):
    home.mkdir()
    (home / "client.toml").write_text("[")

    assert run(["config"]) == 78
    assert "client.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "code"), [("completed", 0), ("failed", 1), ("timeout", 124), ("aborted", 1), ("lost", 1)]
)
def test_run_ends_as_its_task_did(task: FakeApi, status: str, code: int):
    task.answer("GET", f"/api/tasks/{TASK}/events", ended(status))

    assert run(["run", "hi", "-a", "claude"]) == code


def test_a_reader_that_leaves_early_is_no_fault(api: FakeApi):
    api.answer("GET", "/api/hosts", [])
    api.answer("GET", "/api/tasks", {"items": [a_task(id=f"task_{n:026}") for n in range(200)], "nextCursor": None})
    env = {**ENVIRONMENT, "FLEETGATE_URL": api.url, "FLEETGATE_TOKEN": "t"}
    argv = [sys.executable, "-m", "client", "ls", "-a", "-q"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        assert process.stderr.read() == b""
        assert process.wait(20) == 141


# --- run --------------------------------------------------------------------------------------------


def test_the_answer_is_on_stdout_and_the_talk_on_stderr(task: FakeApi, capsys):
    assert run(["run", "hi", "-a", "claude"]) == 0

    told = capsys.readouterr()
    assert told.out == "the answer\n"
    assert told.err.splitlines()[0] == f"{TASK} for claude-code"
    assert "hm" in told.err
    assert told.err.splitlines()[-1] == f"✓ completed · {TASK}"


def test_what_was_asked_for_is_what_is_sent(task: FakeApi):
    options = ["-m", "opus", "-l", "gpu=1", "--host", "lap", "--cwd", "/w", "--timeout", "30m", "--mode", "acceptEdits"]
    run(["run", "fix it", "-a", "claude", *options, "--env", "A=b=c", "--priority", "2", "-d"])

    (sent,) = task.sent("POST", "/api/tasks")
    assert sent["prompt"] == "fix it"
    assert sent["agentType"] == "claude"
    assert sent["model"] == "opus"
    assert sent["labels"]["require"] == {"gpu": "1"}
    assert sent["hostId"] == "h1"
    assert sent["cwd"] == "/w"
    assert sent["timeout"] == 30 * 60 * 1000
    assert sent["permissionMode"] == "acceptEdits"
    assert sent["env"] == {"A": "b=c"}
    assert sent["priority"] == 2


@pytest.mark.parametrize("prompt", ["--version", "-x", 'say "hi" $HOME `id`', "@file\nsecond line", "ü漢"])
def test_a_prompt_is_sent_as_it_is(task: FakeApi, prompt: str):
    run(["run", "-a", "claude", "-d", "--", prompt])

    assert task.sent("POST", "/api/tasks")[0]["prompt"] == prompt


def test_a_dash_reads_the_prompt_from_stdin(task: FakeApi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("from stdin\nü".encode())))
    run(["run", "-", "-a", "claude", "-d"])

    assert task.sent("POST", "/api/tasks")[0]["prompt"] == "from stdin\nü"


def test_a_directory_with_a_dot_is_meant_here(task: FakeApi):
    run(["run", "hi", "-a", "claude", "-d", "--cwd", "./x"])

    assert task.sent("POST", "/api/tasks")[0]["cwd"] == str(Path.cwd() / "x")


def test_the_only_agent_need_not_be_named(task: FakeApi):
    run(["run", "hi", "-d"])

    assert task.sent("POST", "/api/tasks")[0]["agentType"] == "claude-code"


def test_of_several_agents_one_must_be_named(task: FakeApi, capsys):
    agents = [{"agent": name, "path": "/x", "authOk": True} for name in ("gemini", "opencode")]
    task.answer("GET", "/api/hosts", [a_host(agents=agents)])

    assert run(["run", "hi"]) == 2
    assert "gemini, opencode" in capsys.readouterr().err


def test_detached_prints_the_id_alone(task: FakeApi, capsys):
    assert run(["run", "hi", "-a", "claude", "-d"]) == 0
    assert capsys.readouterr().out == f"{TASK}\n"


def test_quiet_prints_the_id_and_waits(task: FakeApi, capsys):
    assert run(["run", "hi", "-a", "claude", "-q"]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == (f"{TASK}\n", "")


def test_json_is_a_line_for_each_event_and_one_for_the_end(task: FakeApi, capsys):
    assert run(["run", "hi", "-a", "claude", "--json"]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == ["thinking", "message", "task"]
    assert lines[1] == {**an_event(2, content="the answer")}
    assert lines[2]["task"]["status"] == "completed"


def test_an_agent_that_said_nothing_is_shown_by_its_result(task: FakeApi, capsys):
    result = {"success": True, "output": "from the \x1b[31mresult"}
    task.answer("GET", f"/api/tasks/{TASK}/events", stream_of(result=result))
    run(["run", "hi", "-a", "claude"])

    assert capsys.readouterr().out == "from the result\n"


def test_a_gap_is_told_and_the_rest_is_shown(task: FakeApi, capsys):
    late = FakeManager(events=[an_event(7, content="late")], first_id=7, task=a_task())
    task.answer("GET", f"/api/tasks/{TASK}/events", late.body(0), late.body(6))

    assert run(["attach", TASK]) == 0
    told = capsys.readouterr()
    assert "events before 7 are not kept any more" in told.err
    assert told.out == "late\n"


@pytest.mark.parametrize(
    "arguments", [["--timeout", "soon"], ["-l", "nolabel"], ["--env", "=x"], ["--host", "moon"], ["--mode", "yolo"]]
)
def test_options_that_mean_nothing_are_refused_before_anything_is_sent(task: FakeApi, arguments: list[str]):
    assert run(["run", "hi", "-a", "claude", *arguments]) in (2, 3)
    assert task.sent("POST", "/api/tasks") == []


# --- looking ----------------------------------------------------------------------------------------


@pytest.fixture
def three(api: FakeApi) -> FakeApi:
    now = now_ms()
    tasks = [
        a_task(id="task_01hf7yat00000000000000000c", prompt="line one\nline \x1b[31mtwo", createdAt=now - 5_000),
        a_task(id="task_01hf7yat00000000000000000b", status="failed", createdAt=now - 120_000, hostId="h1"),
        a_task(id="task_01hf7yat00000000000000000a", status="completed", createdAt=now - 3 * 24 * 3600 * 1000),
    ]
    api.answer("GET", "/api/hosts", [a_host()])
    api.answer("GET", "/api/tasks", {"items": tasks, "nextCursor": None}, {"items": tasks[:1], "nextCursor": None})
    return api


def test_ls_is_a_table_of_what_lives_and_of_the_last_day(three: FakeApi, capsys):
    assert run(["ls"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "01hf7yat00000000000000000c", "01hf7yat00000000000000000b"]
    assert lines[1].split()[1:] == ["●", "running", "claude-code", "-", "5s", "ago", "-", "line", "one", "line", "two"]
    assert "laptop" in lines[2]
    assert len({line.index(word) for line, word in zip(lines, ["AGENT", "claude", "claude"], strict=True)}) == 1


def test_ls_all_has_the_old_ones_too(three: FakeApi, capsys):
    run(["ls", "-a", "-q"])

    assert capsys.readouterr().out.split() == [f"task_01hf7yat00000000000000000{end}" for end in "cba"]


def test_a_state_that_is_none_is_named_with_those_that_are(api: FakeApi, capsys):
    assert run(["ls", "--status", "running", "--status", "done"]) == 2
    assert "there is no state 'done'\nhint: States: queued, assigned, " in capsys.readouterr().err


def test_ls_json_is_one_document(three: FakeApi, capsys):
    run(["ls", "--json"])

    assert [task["status"] for task in json.loads(capsys.readouterr().out)] == ["running", "failed"]


def test_no_tasks_leave_stdout_empty(api: FakeApi, capsys):
    api.answer("GET", "/api/hosts", [])
    api.answer("GET", "/api/tasks", {"items": [], "nextCursor": None})
    run(["ls"])

    told = capsys.readouterr()
    assert told.out == ""
    assert "no tasks" in told.err


def test_ids_are_as_short_as_they_can_be_told_apart():
    ids = ["task_01hf7yat00aaaaxx", "task_01hf7yat00aabbxx", "task_01zzzzzzzzzzzzzz"]

    assert list(short_ids(ids).values()) == ["01hf7yat00aaa", "01hf7yat00aab", "01zzzzzzzzzz"]


def test_hosts_is_a_table_with_agents_and_slots(api: FakeApi, capsys):
    offline = a_host(hostId="h2", name="old", status="offline", agents=[], lastHeartbeat=None, slotsUsed=0)
    api.answer("GET", "/api/hosts", [a_host(), offline])
    run(["hosts"])

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["HOST", "STATUS", "SLOTS", "DISK", "SEEN", "LABELS", "AGENTS"]
    assert lines[1][:4] == ["laptop", "●", "online", "1/2"]
    assert lines[1][-2:] == ["claude-code", "2.1"]
    assert lines[2][:6] == ["old", "○", "offline", "0/2", "-", "never"]


def test_a_narrow_terminal_hides_no_agent_of_a_host(api: FakeApi, monkeypatch: pytest.MonkeyPatch):
    names = ["claude-code", "opencode", "gemini", "mine"]
    agents = [{"agent": name, "version": "1.18.33", "path": "/x", "authOk": True} for name in names]
    api.answer("GET", "/api/hosts", [a_host(agents=agents)])
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    run(["hosts"])

    told = terminal.getvalue()
    assert all(name in told for name in names)
    assert told.count("1.18.33") == len(names)
    assert "…" not in told
    assert max(map(len, told.splitlines())) <= 60


def test_hosts_of_the_same_name_are_told_apart(api: FakeApi, capsys):
    api.answer("GET", "/api/hosts", [a_host(), a_host(hostId="h2"), a_host(hostId="h3", name="old")])
    run(["hosts"])

    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.partition("●")[0].rstrip() for line in lines] == ["laptop h1", "laptop h2", "old"]


@pytest.mark.parametrize("command", ["up", "manager"])
def test_a_light_installation_says_what_it_can_do(command: str, home: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(client.supervisor.NEEDED, "manager", "no_module_has_this_name")

    assert run([command]) == 78
    told = capsys.readouterr().err
    assert "the manager is not part of this installation" in told
    assert "fleetgate join" in told
    assert not (home / "logs").exists()


def test_why_says_what_each_host_lacks(api: FakeApi, capsys):
    lacks = {"name": "agent", "holds": False, "wanted": "gemini", "found": "claude-code"}
    host = {"hostId": "h1", "name": "laptop", "wouldRun": False, "conditions": [lacks]}
    api.answer(
        "GET",
        "/api/tasks/x/why",
        {
            "taskId": "x",
            "status": "queued",
            "summary": "No host has gemini.",
            "wouldRunIf": "laptop had gemini",
            "position": 2,
            "hosts": [host],
        },
    )
    run(["why", "x"])

    assert capsys.readouterr().out == (
        "No host has gemini.\n"
        "It would run if laptop had gemini.\n"
        "2 tasks before it in the queue.\n"
        "\n"
        "HOST              BECAUSE\n"
        "laptop  ✗ cannot  agent: wants gemini, has claude-code\n"
    )


def test_show_has_everything_and_no_values_of_the_environment(api: FakeApi, capsys):
    result = {"success": True, "output": "done", "filesChanged": ["a.py"]}
    api.answer(
        "GET", "/api/tasks/x", a_task(status="completed", env={"KEY": ""}, result=result, startedAt=1, endedAt=9)
    )
    run(["show", "x"])

    told = capsys.readouterr().out
    assert "status       completed\n" in told
    assert "environment  KEY\n" in told
    assert "took         8ms\n" in told
    assert told.endswith("\ndone\n")


def a_token(id: str, name: str) -> dict[str, Any]:
    facts = {"id": id, "name": name, "kind": "personal", "hostId": None, "createdAt": 1}
    return {**facts, "lastUsedAt": None, "revokedAt": None}


@pytest.mark.parametrize(("actor", "called"), [("tok_1", "laptop"), ("tok_gone", "tok_gone")])
def test_show_calls_who_asked_for_it_by_name(api: FakeApi, capsys, actor: str, called: str):
    api.answer("GET", "/api/tasks/x", a_task(actor=actor))
    api.answer("GET", "/api/auth/tokens", [a_token("tok_1", "laptop")])

    assert run(["show", "x"]) == 0
    assert f" by {called}\n" in capsys.readouterr().out


# --- logs -------------------------------------------------------------------------------------------


def a_page(*events: dict[str, Any], has_more: bool = False, verdict: str = "ok") -> dict[str, Any]:
    return {
        "items": events,
        "epoch": "e1",
        "verdict": verdict,
        "firstId": 1,
        "latestId": 9,
        "hasMore": has_more,
    }


@pytest.fixture
def logged(task: FakeApi) -> FakeApi:
    pages = [
        a_page(an_event(1, "thinking", content="hm"), an_event(2, content="one\ntwo"), has_more=True),
        a_page(an_event(3, content="three")),
    ]
    task.answer("GET", f"/api/tasks/{TASK}/events", *pages)
    return task


def test_logs_are_all_on_stdout_page_by_page(logged: FakeApi, capsys):
    assert run(["logs", TASK]) == 0
    assert capsys.readouterr().out == "hm\n\none\ntwo\nthree\n"


def test_the_tail_is_the_last_lines(logged: FakeApi, capsys):
    run(["logs", "--tail", "2", TASK])

    assert capsys.readouterr().out == "two\nthree\n"


def test_the_tail_of_json_is_the_last_events(logged: FakeApi, capsys):
    run(["logs", "--tail", "1", "--json", TASK])

    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [3]


def test_following_goes_on_behind_what_was_there(task: FakeApi, capsys):
    manager = FakeManager(events=[an_event(n, content=f"line {n}") for n in (1, 2, 3)], task=a_task())
    task.answer("GET", f"/api/tasks/{TASK}/events", a_page(*manager.events[:2]), manager.body(2))

    assert run(["logs", "-f", TASK]) == 0
    assert capsys.readouterr().out == "line 1\nline 2\nline 3\n"
    assert task.seen[-1].headers["last-event-id"] == "2"


# --- steering ---------------------------------------------------------------------------------------


def test_stop_asks_and_kill_does_not(api: FakeApi):
    api.answer("POST", "/api/tasks/x/abort", a_task(status="stopping"), status=202)
    run(["stop", "x"])
    run(["kill", "x"])

    assert [body.get("kill") for body in api.sent("POST", "/api/tasks/x/abort")] == [False, True]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("stored", "kept until the host has it"),
        ("sent", "sent to its host; the log will say whether the agent took it"),
        ("taken", "the agent has it"),
        ("refused", "the agent does not get it; the task's log says why"),
    ],
)
def test_send_says_how_far_the_text_came(api: FakeApi, capsys, state: str, words: str):
    api.answer("POST", "/api/tasks/x/input", {"inputId": "i", "taskId": "x", "state": state}, status=202)

    assert run(["send", "x", "--", "-more"]) == 0
    assert api.sent("POST", "/api/tasks/x/input")[0]["content"] == "-more"
    assert capsys.readouterr().err == f"{words}\n"


def test_wait_is_0_only_when_all_completed(api: FakeApi, capsys):
    api.answer("GET", "/api/tasks/a", a_task(id="task_a", status="completed"))
    api.answer("GET", "/api/tasks/task_a", a_task(id="task_a", status="completed"))
    api.answer("GET", "/api/tasks/b", a_task(id="task_b", status="failed", reason="no_result"))
    api.answer("GET", "/api/tasks/task_b", a_task(id="task_b", status="failed", reason="no_result"))

    assert run(["wait", "a"]) == 0
    assert run(["wait", "a", "b"]) == 1
    assert "task_b failed (no_result)\n" in capsys.readouterr().out


def test_wait_gives_up_with_124(task: FakeApi, capsys):
    forever = FakeManager(task=a_task(), ends=False).body(0)
    task.answer("GET", f"/api/tasks/{TASK}/events", forever)

    assert run(["wait", TASK, "--timeout", "200ms"]) == 124
    assert "still running after 0.2 s" in capsys.readouterr().err


def test_a_host_is_found_by_a_beginning_of_its_name(api: FakeApi):
    api.answer("GET", "/api/hosts", [a_host(), a_host(hostId="h2", name="lab")])
    api.answer("POST", "/api/hosts/h2/drain", a_host(hostId="h2", name="lab", draining=True))

    assert run(["drain", "lab"]) == 0
    assert run(["drain", "la"]) == 3
    assert run(["drain", "moon"]) == 3


def test_an_answer_that_is_not_a_managers_is_quoted_and_the_address_doubted(api: FakeApi, capsys):
    api.answers["GET", "/api/tasks/x"] = [(404, b"<h1>Not here</h1>", "text/html")]

    assert run(["show", "x"]) == 3
    assert capsys.readouterr().err.startswith("error: HTTP 404: <h1>Not here</h1>\nhint: A manager says more than that")


# --- access -----------------------------------------------------------------------------------------


def test_login_keeps_a_token_that_works(api: FakeApi, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("fgp_good\n"))
    api.answer("GET", "/api/auth/tokens", [])

    assert run(["login", api.url]) == 0
    assert api.seen[0].headers["authorization"] == "Bearer fgp_good"
    assert 'token = "fgp_good"' in (home / "client.toml").read_text()


def test_login_keeps_nothing_that_does_not_work(api: FakeApi, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("fgp_bad\n"))
    api.refuse("GET", "/api/auth/tokens", 401, "UNAUTHORIZED", "This token is not known here.")

    assert run(["login", api.url]) == 4
    assert not (home / "client.toml").exists()


def test_a_new_token_is_alone_on_stdout(api: FakeApi, capsys):
    api.answer("POST", "/api/auth/tokens", {"token": "fgp_new", "info": a_token("tok_1", "ci")}, status=201)

    assert run(["token", "create", "ci"]) == 0
    assert capsys.readouterr().out == "fgp_new\n"


def test_tokens_are_listed_by_as_much_of_their_ids_as_it_takes(api: FakeApi, capsys):
    long = [a_token("tok_01m88ybyb7rawxj39nb5hn3njb", "one"), a_token("tok_01m88ybyb7rawxyyyyyyyyyyyy", "two")]
    api.answer("GET", "/api/auth/tokens", long)

    assert run(["token", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["tok_01m88ybyb7rawxj", "one"], ["tok_01m88ybyb7rawxy", "two"]]

    assert run(["token", "ls", "-q"]) == 0
    assert capsys.readouterr().out.split() == [token["id"] for token in long]


def test_config_never_shows_the_token(api: FakeApi, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLEETGATE_TOKEN", "fgp_0123456789secret")
    run(["config"])
    run(["config", "--json"])

    told = capsys.readouterr().out
    assert "fgp_0123456789secret" not in told
    assert "fgp_…cret  (from FLEETGATE_TOKEN)" in told


def test_an_invitation_is_one_line_to_type(api: FakeApi, capsys):
    api.answer("POST", "/api/auth/join-codes", {"code": "fgj_x", "expiresAt": now_ms() + 60_000}, status=201)
    assert run(["invite", "-l", "gpu=1", "--ttl", "1m"]) == 0

    told = capsys.readouterr()
    assert told.out == f"fleetgate join {api.url} fgj_x\n"
    assert "good once, for 1m 0s" in told.err
    assert "Only from this machine" in told.err
    assert api.sent("POST", "/api/auth/join-codes") == [{"ttl": 60_000, "labels": {"gpu": "1"}}]


@pytest.mark.parametrize("ttl", ["2d", "1ms"])
def test_an_invitation_that_cannot_be_is_said_before_anybody_is_asked(api: FakeApi, capsys, ttl: str):
    assert run(["invite", "--ttl", ttl]) == 2
    assert f"--ttl {ttl}: a code is good for" in capsys.readouterr().err
    assert api.seen == []


# --- the console ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    coloured, plain, file = Terminal(), Terminal(), io.StringIO()
    Console(out=coloured, err=coloured).put("x", "good")
    Console(out=file, err=file).put("x", "good")
    monkeypatch.setenv("NO_COLOR", "1")
    Console(out=plain, err=plain).put("x", "good")

    assert [one.getvalue() for one in (coloured, plain, file)] == ["\x1b[32mx\x1b[0m\n", "x\n", "x\n"]


def test_talk_made_of_others_words_is_harmless():
    err = io.StringIO()
    Console(out=io.StringIO(), err=err).complain("bad \x1b[2J name", "try \x1b]0;x\x07this")

    assert err.getvalue() == "error: bad  name\nhint: try this\n"


def test_a_terminal_gets_sentences_broken_between_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    narrow, file = Terminal(), io.StringIO()
    for err in (narrow, file):
        Console(out=io.StringIO(), err=err, cells=24).complain("a sentence that is long", "and what to do about it")

    assert narrow.getvalue() == "error: a sentence that\n  is long\nhint: and what to do\n  about it\n"
    assert file.getvalue() == "error: a sentence that is long\nhint: and what to do about it\n"


def test_a_terminal_without_our_signs_gets_question_marks():
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    Console(out=out, err=out).put("✓ done")

    assert raw.getvalue() == b"? done\n"
