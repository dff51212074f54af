"""The example pipeline is a house: a room imports from itself and from the rooms below it."""

import ast
from pathlib import Path

import avscenes

HOUSE = Path(avscenes.__file__).parent
# From the top floor down; rooms of one floor do not import each other.
FLOORS = (
    ("pictures",),
    ("testing", "options"),
    ("training",),
    ("sets", "models"),
    ("scenes",),
    ("media",),
    ("files",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imported_rooms(source):
    """Return the rooms that a file imports from, with the lines."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            house, *rest = name.split(".")
            if house == "avscenes":
                yield rest[0], node.lineno


def faults(room, source):
    """Return what a file of a room imports that it must not."""
    return [
        f"line {line}: {room} imports {other}"
        for other, line in imported_rooms(source)
        if other != room and FLOOR_OF[other] <= FLOOR_OF[room]
    ]


def test_every_room_imports_only_from_rooms_below_it():
    assert {path.name for path in HOUSE.iterdir() if path.is_dir()} - {"__pycache__"} == {*FLOOR_OF}
    found = {
        str(path.relative_to(HOUSE)): faults(path.relative_to(HOUSE).parts[0], path.read_text())
        for path in HOUSE.glob("*/*.py")
    }
    assert len(found) > 50
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_an_import_from_above_or_beside_is_found():
    wrong = "from avscenes.training import data\nimport avscenes.models.encoders\n"
    assert faults("sets", wrong) == [
        "line 1: sets imports training",
        "line 2: sets imports models",
    ]
    assert faults("testing", wrong) == []


def test_a_room_opens_with_one_sentence_and_no_code():
    for path in [HOUSE / "__init__.py", *HOUSE.glob("*/__init__.py")]:
        (only,) = ast.parse(path.read_text()).body
        assert isinstance(only, ast.Expr), path
        assert only.value.value.count(".") == 1, path


def test_files_lie_in_rooms_and_tests_beside_them():
    assert [path.name for path in HOUSE.glob("*.py")] == ["__init__.py"]
    tests = Path(__file__).parent
    rooms = {path.name for path in tests.iterdir() if path.is_dir()} - {"__pycache__", "study"}
    assert rooms <= {*FLOOR_OF}
