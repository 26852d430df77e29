import io
import json

import click
import pytest
from click.testing import CliRunner

from stackctl.cli import frame, main, words
from stackctl.cli.frame import Output, changes, command, confirm, destroys, finish, lists, shows
from stackctl.cli.render import Column
from stackctl.cli.watch import Terminal, amount
from stackctl.errors import Conflict, UsageError
from stackctl.identity.bootstrap import create_cloud
from stackctl.identity.context import Context
from stackctl.operation import Done, Failure, PlannedStep
from stackctl.state import find_cloud, read

COLUMNS = (Column("Name", "name"), Column("vCPUs", "vcpus"), Column("RAM", "ram_mb", extra=True))
STEPS = [
    PlannedStep("h1", "tap", "tap1", "made", "absent"),
    PlannedStep("h2", "x", "y", "busy", ""),
]
seen = []


@command("flavors")
@lists(COLUMNS)
def flavors(context: Context, output: Output) -> None:
    """List flavors."""
    with read(context.cloud) as reader:
        output.list(reader.all("SELECT * FROM flavors ORDER BY name"))


@command("remove")
@changes
@destroys
@shows(COLUMNS)
@click.argument("name", type=words.FLAVOR)
@click.option("--count", type=int, default=1, help="How many.")
def remove(context: Context, output: Output, name: str, count: int) -> None:
    """Remove a flavor."""
    confirm(f"Remove {name}?")
    seen.append((context, name, count))
    context.watch.trace("delete", "h1", f"flavor {name}", 0.25)
    context.watch.warn("host h9 did not answer\x1b[2J")
    output.show({"name": name, "vcpus": count, "ram_mb": None})
    finish(context, Done(None, "op", planned=STEPS, succeeded=1))


@command("fails")
@changes
@lists(COLUMNS)
def fails(context: Context, output: Output) -> None:
    """Fail."""
    seen.append(context)
    finish(context, Done(None, "op", [Failure("server", "1", "n1", "h1", "no memory")], 3))


@command("plain", cloud=False)
def plain() -> None:
    """Need no cloud."""
    click.echo(frame.settings().cloud_name)


GROUP = click.Group(commands={c.name: c for c in (flavors, remove, fails, plain)})
GROUP.params = main.cli.params


@pytest.fixture
def run(clouds, monkeypatch):
    """Run a command line of the commands above; (exit status, stdout, stderr)."""
    create_cloud(find_cloud("default"))
    seen.clear()

    def invoke(*args, terminal=False, answer=None):
        monkeypatch.setattr(frame, "is_terminal", lambda: terminal)

        @click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
        @click.argument("words", nargs=-1, type=click.UNPROCESSED)
        def start(words):
            click.get_current_context().exit(main.run(GROUP, list(words)))

        result = CliRunner().invoke(start, ["--", *args], input=answer)
        return result.exit_code, result.stdout, result.stderr

    return invoke


def test_a_list(run):
    status, out, err = run("flavors", "-f", "json", "-c", "name", "-c", "ram")
    assert (status, err) == (0, "")
    assert json.loads(out)[0] == {"Name": "m1.large", "RAM": 8192}


def test_a_change_gets_its_context_and_words(run):
    status, out, err = run("remove", "tiny", "--count", "3", "--request-id", "r1")
    context, name, count = seen[0]
    assert (status, name, count) == (0, "tiny", 3)
    assert (context.request_id, context.dry_run, context.user_name) == ("r1", False, "admin")
    assert "| vCPUs | 3     |" in out
    assert err == "Warning: host h9 did not answer\n"


def test_dry_run_says_what_hosts_would_do(run):
    status, out, _ = run("remove", "tiny", "--dry-run")
    assert status == 0 and seen[0][0].dry_run
    assert out.endswith(
        "host h1: make tap tap1 (absent)\nhost h2: busy x y\nDry run: nothing was changed.\n"
    )


def test_dry_run_keeps_a_document_whole(run):
    _, out, err = run("remove", "tiny", "--dry-run", "-f", "json")
    assert json.loads(out)["Name"] == "tiny"
    assert "host h1: make tap tap1" in err


def test_dry_run_with_nothing_to_do():
    assert frame.rehearsal([]) == ["Dry run: no host would do anything."]


def test_what_failed_ends_the_command(run):
    status, _, err = run("fails")
    assert status == 40
    assert err == "Error: server n1 on host h1: no memory.\nTry: stackctl events\n"


def test_a_wrong_column_is_refused_before_anything_is_done(run):
    status, _, err = run("fails", "-c", "mane")
    assert (status, seen) == (2, [])
    assert "no column 'mane'" in err and "Name, vCPUs, RAM" in err


@pytest.mark.parametrize("args", [("--cloud", "lab", "plain"), ("plain", "--cloud", "lab")])
def test_global_options_before_and_after(run, args):
    assert run(*args)[:2] == (0, "lab\n")


def test_cloud_from_the_environment(run, monkeypatch):
    monkeypatch.setenv("STACKCTL_CLOUD", "other")
    assert run("plain")[1] == "other\n"
    assert run("plain", "--cloud", "lab")[1] == "lab\n"
    assert run("flavors")[0] == 3


def test_trace_as_text_and_json(run):
    _, _, err = run("--trace=text", "remove", "tiny")
    line = err.splitlines()[0].split()
    assert line[0].endswith("Z") and line[1:] == ["h1", "flavor", "tiny", "delete", "0.250s"]
    _, _, err = run("remove", "tiny", "--trace=json")
    step = json.loads(err.splitlines()[0])
    step.pop("at")
    assert step == {"host": "h1", "resource": "flavor tiny", "step": "delete", "seconds": 0.25}


def test_confirmation(run):
    assert run("remove", "tiny")[0] == 0, "nobody can answer: not asked"
    assert run("remove", "tiny", terminal=True, answer="y\n")[0] == 0
    assert run("remove", "tiny", "--yes", terminal=True)[0] == 0
    assert run("remove", "tiny", "--dry-run", terminal=True)[0] == 0
    seen.clear()
    status, _, err = run("remove", "tiny", terminal=True, answer="n\n")
    assert (status, seen) == (130, [])
    assert "Remove tiny?" in err and "nothing was changed" in err


def test_host_key_needs_a_person(monkeypatch):
    monkeypatch.setattr(frame, "is_terminal", lambda: False)
    with pytest.raises(UsageError, match="SHA256:abc"):
        frame.confirm_host_key("h1", "SHA256:abc")


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_bars_only_for_what_takes_long(monkeypatch):
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(trace=None, colour=False)
    terminal.progress("copying image", 1, 10)
    assert screen.getvalue() == ""
    terminal._begun["copying image"] -= 2
    terminal.progress("copying image", 5, 10)
    terminal.close()
    assert "copying image" in screen.getvalue() and "5 of 10" in screen.getvalue()


def test_no_bars_off_a_terminal(capsys):
    terminal = Terminal(trace=None, colour=True)
    terminal._begun["x"] = -10
    terminal.progress("x", 1, 2)
    terminal.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (1, 4, "1 of 4"),
        (3, 0, "3"),
        (1 << 20, 1 << 21, "1.0 MiB of 2.0 MiB"),
        (1 << 20, 0, "1.0 MiB"),
    ],
)
def test_amounts(done, total, text):
    assert amount(done, total) == text


def test_a_conflict_inside_a_command_is_not_hidden(run):
    with pytest.raises(Conflict):
        create_cloud(find_cloud("default"))
