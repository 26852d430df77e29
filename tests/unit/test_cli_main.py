import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from stackctl import errors
from stackctl.cli import commands, main
from stackctl.cli.frame import Settings, with_trace_kind
from stackctl.identity.bootstrap import create_cloud
from stackctl.state import find_cloud

ROOT = Path(__file__).parents[2]
# What would make --help slow.
HEAVY = ("fabric", "paramiko", "rich", "sqlite3", "sqlite_utils", "tabulate", "yaml", "difflib")


def invoke(*args):
    return CliRunner().invoke(main.cli, list(args))


def process(*args, code="from stackctl.cli.main import main; main()", **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_what_is_there_under_headings():
    result = invoke("--help")
    assert result.exit_code == 0
    for panel in {entry.panel for entry in commands.listed().values()}:
        assert f"\n{panel}:\n" in result.stdout
    width = max(map(len, commands.listed()))
    for name, entry in commands.listed().items():
        assert f"\n  {name.ljust(width)}  {entry.help}\n" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_nothing_but_help_without_words():
    assert invoke().stdout == invoke("--help").stdout
    assert invoke("--no-color").exit_code == 2
    assert invoke("--no-color").stderr.startswith("Error: Missing command.")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom stackctl.cli.main import run, cli\nrun(cli, ['--help'])\n"
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules],"
        " [name for name in sys.modules if name.startswith('stackctl')])"
    )
    last = process(code=code).stdout.splitlines()[-1]
    nouns = {f"'stackctl.cli.{entry.module}'" for entry in commands.COMMANDS.values()}
    assert last.startswith("HEAVY [] ")
    assert not [noun for noun in nouns if noun in last]


def test_a_command_without_its_module_is_not_there(monkeypatch):
    monkeypatch.setitem(commands.COMMANDS, "fly", commands.Entry("aviation", "Fly", "Servers"))
    assert "fly" not in invoke("--help").output
    assert invoke("fly").exit_code == 2


@pytest.mark.parametrize(
    ("typed", "near"),
    [("versoin", "version"), ("int", "init"), ("complete", "completion"), ("xyzzy", "")],
)
def test_near_names_are_suggested(typed, near):
    result = invoke(typed)
    assert result.exit_code == 2
    assert f"Error: There is no command '{typed}'." in result.stderr
    assert (f"Did you mean {near}" in result.stderr) if near else ("mean" not in result.stderr)
    assert result.stderr.endswith("Try: stackctl --help\n")


def test_near_names_of_openstacks_spelling():
    assert "Did you mean list" in invoke("server", "lsit").stderr
    assert "no command 'cluster lst'. Did you mean cluster-list" in invoke("cluster", "lst").stderr


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("server list", "list"),
        ("server create", "boot"),
        ("network create", "net-create"),
        ("network delete", "net-delete"),
        ("keypair create", "keypair-add"),
        ("hypervisor list", "host-list"),
        ("console log show", "console-log"),
        ("image show", "image-show"),
        ("server add port", "interface-attach"),
        ("server add network", "interface-attach --by=net"),
        ("server add fixed ip", "interface-attach --by=net"),
        ("server remove port", "interface-detach"),
    ],
)
def test_openstacks_spelling(words, name):
    assert commands.translate([*words.split(), "x"]) == (name, len(words.split()))


def test_console_log_show_is_not_taken_for_our_console():
    for words, wanted in (("log show", "console-log"), ("url show", "vnc-console")):
        result = invoke("console", *words.split(), "--help")
        assert result.stdout.startswith(f"Usage: stackctl {wanted} "), result.output


@pytest.mark.parametrize("words", ["server", "server fly", "console log", "boot list"])
def test_what_is_no_spelling(words):
    assert commands.translate(words.split()) is None


def test_usage_errors_name_the_help():
    result = invoke("completion", "tcsh")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == "Try: stackctl completion --help"


def test_trace_alone_never_takes_the_next_word():
    assert invoke("--trace", "version").exit_code == 0
    assert invoke("version", "--trace").exit_code == 0
    assert invoke("--trace=csv", "version").exit_code == 2
    assert invoke("--cloud", "lab", "--trace", "version", "--trace").exit_code == 0


@pytest.mark.parametrize(
    ("hands_on", "words", "read"),
    [
        (False, "--trace a --trace -- --trace", "--trace=text a --trace=text -- --trace"),
        (True, "--cloud lab --trace web ls --trace", "--cloud lab --trace=text web ls --trace"),
    ],
)
def test_words_for_others_stay_as_they_are(hands_on, words, read):
    context = click.Context(click.Command("x"), allow_interspersed_args=not hands_on)
    assert with_trace_kind(context, words.split()) == read.split()


STATUSES = {
    errors.UsageError: 2,
    errors.NotFound: 3,
    errors.Conflict: 4,
    errors.QuotaExceeded: 5,
    errors.NoCapacity: 6,
    errors.Forbidden: 7,
    errors.StateLocked: 10,
    errors.StateCorrupt: 11,
    errors.HostAhead: 11,
    errors.HostUnreachable: 20,
    errors.HostKeyMismatch: 21,
    errors.ResourceFailed: 30,
    errors.AgentFailed: 30,
    errors.UnsafeImage: 31,
    errors.PartlyDone: 40,
    errors.Bug: 70,
}


def test_every_error_has_its_status():
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    assert kinds - {errors.StackctlError} == set(STATUSES)


@pytest.mark.parametrize(("kind", "status"), STATUSES.items())
def test_an_error_is_one_paragraph_and_a_hint(kind, status, capsys):
    assert main.report(kind("It failed.", hint="stackctl x"), Settings()) == status
    said = capsys.readouterr()
    assert said.out == ""
    if status != 70:
        assert said.err == "Error: It failed.\nTry: stackctl x\n"


def test_what_hosts_say_cannot_command_the_terminal(capsys):
    main.report(errors.ResourceFailed("qemu:\x1b]0;x\x07 \x1b[2Jno\r\n\n\nspace\x00"), Settings())
    assert capsys.readouterr().err == "Error: qemu: no\nspace\n"


def test_a_terminal_gets_no_line_longer_than_it_is_wide(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    main.report(errors.Conflict("word " * 40 + "\nsecond line"), Settings())
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, map(click.unstyle, lines))) <= 40
    assert lines[-1] == "second line"


def unexpected():
    try:
        raise ValueError("surprise")
    except ValueError as error:
        return error


def test_a_bug_says_so_in_a_paragraph(capsys):
    assert main.report(unexpected(), Settings()) == 70
    said = capsys.readouterr().err
    assert "This is a bug in stackctl" in said and "ValueError: surprise" in said
    assert f"{__file__}:" in said and "--debug" in said and "Traceback" not in said


def test_debug_shows_the_traceback(capsys):
    assert main.report(unexpected(), Settings(debug=True)) == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    main.report(errors.NotFound("No."), Settings(debug=True))
    assert "NotFound" in capsys.readouterr().err


SLEEPER = """
import click, sys, time
from stackctl.cli.main import run
@click.command()
def wait():
    print("ready", flush=True)
    time.sleep(60)
sys.exit(run(wait, []))
"""


def test_interrupted():
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER], cwd=ROOT, stdout=-1, stderr=-1, text=True
    ) as waiting:
        assert waiting.stdout.readline() == "ready\n"
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert said == "Interrupted. What was done is kept; 'stackctl recover' settles the rest.\n"


def test_nobody_reads_any_more():
    line = f"(sleep 0.3; {sys.executable} -m stackctl.cli.main --help; echo $? >&2) | true"
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == "141\n"


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_only_where_they_are_wanted(environment, coloured):
    line = f"{sys.executable} -m stackctl.cli.main nothing"
    done = subprocess.run(
        ["script", "-qec", line, "/dev/null"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert ("\x1b[31m" in done.stdout) == coloured


def complete(*words, **environment):
    line = {"COMP_WORDS": " ".join(["stackctl", *words]), "COMP_CWORD": str(len(words))}
    done = process(_STACKCTL_COMPLETE="bash_complete", **line, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_completion_of_commands_and_options():
    assert complete("comp") == ["plain,completion"]
    assert "plain,--trace" in complete("--")
    assert complete("completion", "z") == ["plain,zsh"]


NAMES = """
import click
from stackctl.cli import main, words
from stackctl.cli.frame import command
@command("pick")
@click.argument("flavors", nargs=-1, type=words.FLAVOR)
def pick(context, flavors): ...
main.commands.load = {"pick": pick}.get
main.main()
"""


def test_completion_of_names(clouds):
    create_cloud(find_cloud("lab"))
    words = {"_STACKCTL_COMPLETE": "bash_complete", "COMP_CWORD": "4"}
    done = process(code=NAMES, COMP_WORDS="stackctl --cloud lab pick m1.s", **words)
    assert (done.stdout, done.stderr) == ("plain,m1.small\n", "")
    done = process(
        code=NAMES,
        COMP_WORDS="stackctl pick a m1.x x",
        STACKCTL_CLOUD="lab",
        **words | {"COMP_CWORD": "3"},
    )
    assert (done.stdout, done.stderr) == ("plain,m1.xlarge\n", "")


def test_completion_is_silent_when_the_database_is_not_well(clouds):
    (clouds / "default").mkdir(parents=True, mode=0o700)
    words = {
        "_STACKCTL_COMPLETE": "bash_complete",
        "COMP_CWORD": "2",
        "COMP_WORDS": "stackctl pick m",
    }
    for content in (None, b"", b"rubbish" * 1000):
        if content is not None:
            (clouds / "default" / "state.db").write_bytes(content)
        done = process(code=NAMES, **words)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    script = invoke("completion", shell).stdout
    assert f"_STACKCTL_COMPLETE={shell}_complete" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_init_and_version(clouds):
    assert invoke("init", "--cloud", "one").exit_code == 0
    assert (clouds / "one" / "state.db").exists()
    again = invoke("init", "--cloud", "one")
    assert (again.exit_code, again.stdout) == (4, "")
    assert invoke("version").stdout.startswith("stackctl 0.")


@pytest.fixture
def clone(tmp_path):
    """The launcher in a clone whose virtual environment is the one that runs the tests."""
    (tmp_path / "clone/bin").mkdir(parents=True)
    launcher = tmp_path / "clone/bin/stackctl"
    launcher.write_bytes((ROOT / "bin/stackctl").read_bytes())
    launcher.chmod(0o755)
    (tmp_path / "clone/stackctl").symlink_to(ROOT / "stackctl")
    (tmp_path / "clone/agent").symlink_to(ROOT / "agent")
    return tmp_path / "clone"


def launch(clone, *args, program=None, **keywords):
    command = [program or clone / "bin/stackctl", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, **keywords)


def test_launcher_from_anywhere(clone, tmp_path):
    (clone / ".venv").symlink_to(sys.prefix)
    (tmp_path / "link").symlink_to(clone / "bin/stackctl")
    # A folder that tries to take the place of what is imported.
    (tmp_path / "trap/stackctl").mkdir(parents=True)
    (tmp_path / "trap/click.py").write_text("raise SystemExit('trapped')")
    for program in (None, tmp_path / "link"):
        done = launch(
            clone,
            "version",
            program=program,
            cwd=tmp_path / "trap",
            env={**os.environ, "PYTHONPATH": str(tmp_path / "trap")},
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("stackctl ")


def test_launcher_hands_on_words_as_they_are(clone):
    (clone / ".venv").symlink_to(sys.prefix)
    done = launch(clone, "a  b*")
    assert done.returncode == 2
    assert "'a  b*'" in done.stderr


def test_launcher_before_the_setup(clone):
    done = launch(clone, "version")
    assert done.returncode == 70
    assert done.stderr.splitlines()[-1] == f"Try: {clone}/bin/quickstart"
