"""The house keeps its shape: imports go upwards, functions stay narrow, files short, and CONTRIBUTING.md draws it."""

from __future__ import annotations

import ast
import json
import re

import pytest

from mlu_utils import paths

PACKAGE = paths.ROOT / "mlu_utils"
# From the ground floor up: a room may use those before it, and those on its own floor never.
FLOORS = (
    ("paths", "naming", "files"),
    ("digests",),
    ("devices",),
    ("data",),
    ("models", "requests"),
    ("training",),
    ("checkpoints", "studies"),
    ("unlearning", "scoring"),
    ("attacks", "theory"),
    ("results",),
    ("experiments", "claims"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Lines that a file may have, and all of library and workflow together.
MOST_LINES_A_FILE, MOST_LINES, MOST_NOTEBOOK_LINES, MOST_ARGUMENTS = 600, 12_680, 250, 15


def library_files():
    """Every module of the library."""
    return sorted(PACKAGE.rglob("*.py"))


def room_of(file):
    """The room that a file lies in: its subpackage, or itself."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported(file):
    """The rooms that a file imports, inside functions and for type checking as well, with where."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "mlu_utils":
            names = [f"mlu_utils.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            parts = name.split(".")
            if parts[0] == "mlu_utils" and len(parts) > 1 and parts[1] in FLOOR_OF:
                yield parts[1], node


def is_late(tree, node):
    """Whether an import stands inside a function or behind TYPE_CHECKING: it costs nothing when the module is read."""
    return not any(node is top for top in tree.body)


def test_every_room_has_its_floor():
    rooms = {room_of(file) for file in library_files()} - {"__init__"}
    assert rooms == set(FLOOR_OF), f"without a floor: {rooms - set(FLOOR_OF)}, gone: {set(FLOOR_OF) - rooms}"


@pytest.mark.parametrize("file", library_files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_upwards(file):
    room = room_of(file)
    if room == "__init__":
        return
    for other, node in rooms_imported(file):
        # A study knows its table and its mask, which it asks for when it is used.
        if other != room and not (room == "studies" and node.col_offset > 0):
            assert FLOOR_OF[other] < FLOOR_OF[room], f"{file.name}:{node.lineno}: {room} imports {other}"


def test_nothing_imports_the_workflow():
    workflow = {file.stem for file in (paths.ROOT / "workflow").glob("*.py")}
    for file in library_files():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None) or node.names[0].name
                assert module.split(".")[0] not in {"workflow", *workflow}, f"{file}:{node.lineno}"


def counted_files():
    """What the budget of lines counts."""
    workflow = paths.ROOT / "workflow"
    return [*library_files(), *workflow.glob("*.py"), workflow / "Snakefile", paths.ROOT / "run_experiment.py"]


def test_the_library_is_thin():
    lines = {file: len(file.read_text().splitlines()) for file in counted_files()}
    long = {file.name: count for file, count in lines.items() if count > MOST_LINES_A_FILE}
    assert not long, f"longer than {MOST_LINES_A_FILE} lines: {long}"
    assert sum(lines.values()) <= MOST_LINES


def test_functions_of_unlearning_are_narrow():
    for file in (PACKAGE / "unlearning").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                assert len(names) <= MOST_ARGUMENTS, f"{file.name}:{node.lineno} {node.name} has {len(names)} arguments"


@pytest.mark.parametrize("path", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_short(path):
    cells = json.loads(path.read_text())["cells"]
    code = ["".join(cell["source"]).splitlines() for cell in cells if cell["cell_type"] == "code"]
    assert sum(map(len, code)) <= MOST_NOTEBOOK_LINES


def test_the_picture_in_contributing_is_the_house():
    text = (paths.ROOT / "CONTRIBUTING.md").read_text()
    drawn = set(re.findall(r"^\s+(\w+)[^\n]*? --> (\w+)", text, flags=re.M))
    rooms = {room for edge in drawn for room in edge}
    imported = {
        (other, room_of(file))
        for file in library_files()
        for other, _ in rooms_imported(file)
        if other != room_of(file)
    }
    assert drawn and drawn <= imported, f"drawn, but not so: {sorted(drawn - imported)}"
    missing = {edge for edge in imported if set(edge) <= rooms} - closure(drawn)
    assert not missing, f"imported, but no arrow leads there: {sorted(missing)}"


def closure(edges):
    """All pairs that are joined by a chain of edges."""
    found = set(edges)
    while more := {(a, d) for a, b in found for c, d in found if b == c} - found:
        found |= more
    return found
