"""playbooks/setup-controller.sh with a stand-in for apt: what it installs, and when."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from stackctl.lab.requirements import ADMIN_PATH, COMMANDS

ROOT = Path(__file__).parents[2]
LISTS = sorted((ROOT / "playbooks/hosts").glob("*.yaml"))


def shell(script: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-uc", f". playbooks/setup-controller.sh\n{script}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


STAND_INS = """
wanted_packages() { printf '%s\\n' gcc qemu-utils xorriso; }
dpkg-query() { printf 'installed gcc\\nconfig-files qemu-utils\\ninstalled qemu-utils-extra\\n'; }
keep_services_down() { echo services stay down; }
id() { echo "${UID_HERE:-0}"; }
apt-get() {
    echo "apt-get ${*: -1}"
    case "$*" in
    *update*) LISTS_THERE=1 ;;
    *) [ "${LISTS_THERE:-1}" = 1 ] ;;
    esac
}
apt_get() { apt-get "$@"; }
"""


def test_only_what_is_missing_is_installed_without_fetching_lists():
    done = shell(STAND_INS + 'apt_get() { echo "apt-get $*"; }; install_packages')
    assert done.returncode == 0
    assert "apt-get install qemu-utils xorriso" in done.stdout
    assert "update" not in done.stdout


def test_lists_are_fetched_when_the_first_try_fails():
    done = shell(STAND_INS + "install_packages", LISTS_THERE="0")
    lines = [line for line in done.stdout.splitlines() if line.startswith("apt-get")]
    assert done.returncode == 0
    assert lines == ["apt-get xorriso", "apt-get update", "apt-get xorriso"]


def test_failure_is_told():
    done = shell(STAND_INS + "apt_get() { return 100; }; install_packages")
    assert done.returncode == 1
    assert "could not install qemu-utils xorriso" in done.stderr


def test_nothing_missing_nothing_done():
    stand_ins = STAND_INS + "dpkg-query() { printf 'installed %s\\n' gcc qemu-utils xorriso; }\n"
    assert shell(stand_ins + "install_packages").stdout == ""


def test_without_root_it_says_what_to_type():
    done = shell(STAND_INS + "install_packages", UID_HERE="1000")
    assert done.returncode == 1
    assert "Try: as root: apt-get install" in done.stderr


VENV = """
cd "$FOLDER" && mkdir -p .venv/bin
printf '#!/bin/sh\necho "python $*"\n' >.venv/bin/python && chmod +x .venv/bin/python
"""


def test_each_file_of_requirements_is_installed_once(tmp_path):
    """The quickstart installed a whole object store, which only tests need."""
    for name in ("requirements.txt", "requirements-test.txt"):
        (tmp_path / name).write_text(name)
    install = f"{VENV} install_packages() {{ :; }}\n"

    def installed(words: str) -> list[str]:
        done = shell(f"{install} set_up {words}", FOLDER=str(tmp_path))
        assert done.returncode == 0, done.stderr
        return [line.split()[-1] for line in done.stdout.splitlines() if " pip install " in line]

    assert installed("") == ["requirements.txt"]
    assert installed("") == []
    assert installed("requirements-test.txt") == ["requirements-test.txt"]
    assert installed("requirements-test.txt") == []
    (tmp_path / "requirements.txt").write_text("newer")
    assert installed("") == ["requirements.txt"]


def test_only_tests_install_what_tests_need():
    texts = {name: (ROOT / name).read_text() for name in ("bin/quickstart", "bin/test")}
    assert "requirements-test" not in texts["bin/quickstart"]
    assert "needs=(requirements-test.txt)" in texts["bin/test"]
    assert "\nswift" not in (ROOT / "requirements.txt").read_text()
    assert "\nswift" in (ROOT / "requirements-test.txt").read_text()


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_shell_reads_the_list_as_yaml_does(path):
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["packages"]
    # A lab is made on Debian's family only; elsewhere the list is for host-prepare.
    assert set(groups) >= ({"host"} if path.stem == "fedora" else {"host", "lab", "guest", "build"})
    every = sorted({name for names in groups.values() for name in names})
    assert shell(f"packages_in {path}").stdout.split() == every


def test_a_bare_machine_gets_every_command_that_the_lab_runs():
    """The list missed sfdisk where no image of the machine brought it along."""
    listed = shell("wanted_packages").stdout.split()
    words = "--recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces"
    told = shell(f"apt-cache depends {words} --no-enhances -i {' '.join(listed)}").stdout
    brought = {line.strip() for line in told.splitlines() if not line.startswith(" ")}
    for command in COMMANDS:
        path = shutil.which(command, path=ADMIN_PATH)
        assert path is not None, f"{command} is not on this machine"
        assert _owners(path) & (brought | _essential()), f"no listed package brings {command}"


def _owners(path):
    """The packages that a command's file is from (/bin and /usr/bin are one folder)."""
    names = {path, str(Path(path).resolve()), path.removeprefix("/usr"), f"/usr{path}"}
    done = subprocess.run(["dpkg", "-S", *names], capture_output=True, text=True, check=False)
    return {line.partition(":")[0] for line in done.stdout.splitlines()}


def _essential():
    show = ["dpkg-query", "-W", "-f=${Essential} ${Package}\n"]
    told = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    return {line.split()[1] for line in told.splitlines() if line.startswith("yes ")}
