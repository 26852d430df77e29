"""Rules about the code that a linter cannot know. Who may import what is in pyproject.toml."""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("stackctl", "agent") for path in ROOT.glob(f"{folder}/**/*.py")
)
SERVICES = ("compute", "network", "image", "volume", "hosts", "operation", "orchestration")

# Programs of their own: the agent, what runs first on a host, PID 1 of a lab host.
PROGRAMS = ("agent/__main__.py", "stackctl/fleet/bootstrap.py", "stackctl/lab/init.py")
TRANSACTION = re.compile(r"\s*(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)\b(?!\s+\w+\s+KEY)")
XML = re.compile(
    r"</\w|<(domain|devices|disk|interface|source|target|network|pool|volume|cpu|os|metadata)\b"
)
MAX_FUNCTION_LINES = 60
MEDIAN_FUNCTION_LINES = 8
MAX_FILE_LINES = 500


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def nodes(kind: type | tuple[type, ...], *, outside: tuple[str, ...] = ()) -> Iterator:
    """(place, node) of every such node in the sources that are not under ``outside``."""
    for path in SOURCES:
        if name_of(path).startswith(outside):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield f"{name_of(path)}:{getattr(node, 'lineno', 0)}", node


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_no_shell_reads_our_words():
    found = [
        place
        for place, call in nodes(ast.Call)
        if any(word.arg == "shell" for word in call.keywords)
        or called(call) in ("os.system", "os.popen", "subprocess.getoutput")
    ]
    assert found == []


def test_no_assert_in_the_product():
    assert [place for place, _ in nodes(ast.Assert)] == []


def test_only_the_front_door_prints():
    found = [
        place
        for place, call in nodes(ast.Call, outside=("stackctl/cli/",))
        if called(call) == "print"
    ]
    assert found == []


def test_only_programs_exit():
    exits = ("sys.exit", "os._exit", "exit", "quit")
    outside = ("stackctl/cli/", *PROGRAMS)
    found = [place for place, call in nodes(ast.Call, outside=outside) if called(call) in exits]
    found += [
        place
        for place, node in nodes(ast.Raise, outside=outside)
        if node.exc is not None and "SystemExit" in ast.unparse(node.exc)
    ]
    assert found == []


def test_transactions_are_opened_in_one_place():
    # The agent has no database; its COMMIT is a word of iptables-restore.
    outside = ("stackctl/state/db.py", "stackctl/state/schema.py", "agent/")
    found = [
        place
        for place, node in nodes(ast.Constant, outside=outside)
        if isinstance(node.value, str) and TRANSACTION.match(node.value)
    ]
    found += [
        place
        for place, call in nodes(ast.Call, outside=outside)
        if called(call).endswith((".atomic", ".executescript"))
    ]
    assert found == []


def test_xml_is_built_by_a_library():
    found = []
    for place, node in nodes((ast.JoinedStr, ast.Call, ast.BinOp)):
        if any(XML.search(text) for text in formatted_texts(node)):
            found.append(place)
    assert found == []


def formatted_texts(node: ast.AST) -> list[str]:
    """The literal parts of an f-string, of a "...".format() or of a "..." % value."""
    if isinstance(node, ast.JoinedStr):
        parts = node.values
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        parts = [node.func.value] if node.func.attr == "format" else []
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        parts = [node.left]
    else:
        parts = []
    return [
        part.value
        for part in parts
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]


def test_qemu_img_is_started_in_one_place():
    # The lab makes its own guest image, and asks whether the program is there.
    outside = ("agent/system/qemu_img.py", "stackctl/lab/")
    found = [
        place for place, node in nodes(ast.Constant, outside=outside) if node.value == "qemu-img"
    ]
    assert found == []


def test_services_open_no_files_of_their_callers():
    found = []
    for place, node in nodes(ast.FunctionDef):
        if not place.startswith(tuple(f"stackctl/{service}/" for service in SERVICES)):
            continue
        arguments = node.args.args + node.args.kwonlyargs
        if node.name.startswith("_") or not arguments or arguments[0].arg != "context":
            continue
        found += [
            f"{place} {node.name}({argument.arg})"
            for argument in arguments
            if argument.annotation is not None
            and re.search(r"\b(Path|PathLike)\b", ast.unparse(argument.annotation))
        ]
    assert found == []


def test_functions_and_files_stay_small():
    sizes = {
        f"{place} {node.name}": length(node)
        for place, node in nodes((ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {place: size for place, size in sizes.items() if size > MAX_FUNCTION_LINES} == {}
    assert statistics.median(sizes.values()) <= MEDIAN_FUNCTION_LINES
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {path: count for path, count in lines.items() if count > MAX_FILE_LINES} == {}


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_arrows_point_down():
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


BROKEN = [
    ("stackctl/network/bad.py", "import sqlite3", "SQL is spoken in state"),
    ("stackctl/network/bad.py", "from stackctl.compute import anything", "Arrows point down"),
    ("stackctl/network/bad.py", "from stackctl import image", "Arrows point down"),
    ("stackctl/state/bad.py", "import stackctl.identity", "Arrows point down"),
    ("stackctl/hosts/bad.py", "import paramiko", "SSH is spoken in fleet"),
    ("stackctl/compute/bad.py", "import click", "Only the front door"),
    ("stackctl/compute/bad.py", "import subprocess", "Engines are reached"),
    ("agent/resources/bad.py", "import libvirt", "Engines are reached"),
    ("agent/bad.py", "import stackctl.errors", "The agent stands alone"),
    ("stackctl/fleet/bad.py", "import agent.resources.base", "Of the agent"),
    ("stackctl/compute/scheduling/bad.py", "import time", "The scheduler is a pure function"),
    ("stackctl/hostspec/bad.py", "import random", "A host's spec is a pure function"),
]


@pytest.mark.parametrize(("path", "line", "contract"), BROKEN)
def test_a_contract_breaks_when_it_should(tmp_path, path, line, contract):
    for source in ("stackctl", "agent"):
        for file in ROOT.glob(f"{source}/**/__init__.py"):
            (tmp_path / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file.relative_to(ROOT)).touch()
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in [*re.findall(r'-> (agent\.\w+)"', settings), "agent.resources.base"]:
        (tmp_path / name.replace(".", "/")).with_suffix(".py").touch()
    for name in ("__main__", "errors", "killpoint", "names"):
        (tmp_path / f"stackctl/{name}.py").touch()
    for name in ("anything", "scheduler"):
        (tmp_path / f"stackctl/compute/{name}.py").touch()
    # What the real tree ignores must be there to be ignored.
    (tmp_path / "stackctl/state/db.py").write_text("import sqlite3\nimport sqlite_utils\n")
    (tmp_path / "stackctl/cli/x.py").write_text("import click\nimport rich\nimport tabulate\n")
    (tmp_path / path).write_text(line + "\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(settings, encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = re.search(rf"{contract}.*?(KEPT|BROKEN)", done.stdout.replace("\n", " "))
    assert verdict is not None and verdict[1] == "BROKEN", done.stdout
