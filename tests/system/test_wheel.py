"""What `pip install .` installs: controller, agent and playbooks, and a command that works."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*argv, **settings):
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=300, check=False, **settings
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the tree as it is, built from a copy: setuptools writes beside its source."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    for name in ("stackctl", "agent", "playbooks"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, tree)
    (built,) = folder.glob("stackctl-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The bin folder of an environment that has the wheel, and what it needs from this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    argv = ("--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    run(sys.executable, "-m", "pip", *argv)
    return folder / "bin"


def in_tree(folder):
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_it_holds_everything_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == in_tree("stackctl") | in_tree("agent") | in_tree("playbooks")


def test_the_command_works(installed, tmp_path):
    environment = {**os.environ, "STACKCTL_CLOUDS": str(tmp_path / "clouds")}
    environment.pop("PYTHONPATH", None)
    command = installed / "stackctl"
    assert "Servers" in run(command, "--help", env=environment, cwd=tmp_path)
    assert run(command, "version", env=environment, cwd=tmp_path).startswith("stackctl ")
    run(command, "init", env=environment, cwd=tmp_path)
    assert "m1.small" in run(command, "flavor-list", env=environment, cwd=tmp_path)


def test_it_runs_what_was_installed(installed, tmp_path):
    where = "import agent, playbooks, stackctl; print(agent.__file__, stackctl.__file__)"
    found = run(installed / "python", "-c", where, cwd=tmp_path).split()
    assert all(Path(path).is_relative_to(installed.parent) for path in found)
    delivery = (
        "from stackctl.fleet.delivery import agent_archive, read_archive\n"
        "print(len(read_archive(agent_archive())))"
    )
    assert int(run(installed / "python", "-c", delivery, cwd=tmp_path)) > 0


def test_bash_completes_commands_options_and_names(installed, tmp_path):
    """The script as bash sources it, and what it answers to the Tab key."""
    environment = {**os.environ, "STACKCTL_CLOUDS": str(tmp_path / "clouds")}
    environment["PATH"] = f"{installed}:{environment['PATH']}"
    run("stackctl", "init", env=environment)

    def completed(*words):
        typed = " ".join(f"'{word}'" for word in words)
        script = (
            "source <(stackctl completion bash); "
            f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; "
            "_stackctl_completion stackctl; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        return run("bash", "-c", script, env=environment).split()

    assert completed("stackctl", "net-c") == ["net-create"]
    assert "--flavor" in completed("stackctl", "boot", "--fl")
    assert completed("stackctl", "boot", "x", "--flavor", "m1.s") == ["m1.small"]
    assert completed("stackctl", "flavor-show", "med") == ["medium"]
