"""The order of the house: who may import whom, one home a name, small files. `docs/architecture.md` describes it.

Imports inside functions and for types count as any other.
"""

import ast
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_compress"
FLOORS = (
    {"ground", "device"},
    {"sections", "checkpoint", "runtimes"},
    {"data", "losses"},
    {"models"},
    {"tasks", "measure"},
    {"training", "report"},
    {"steps", "hub"},
    {"run"},
    {"study", "auto", "tools", "adapters"},
    {"cli"},
    {""},  # the modules of the package's root
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
MOST_LINES = 400
MOST_LOOSE = 4

# "importing file -> imported file": why; at most five.
ALLOWED: dict[str, str] = {}

# Names that may be defined in several modules of one folder, because what calls them knows the modules by these names;
# "*": all names.
INTERFACES: dict[str, set[str]] = {
    "cli": {"*"},  # a command is called as the function that does it
}


def modules(package: Path) -> dict[str, Path]:
    """Return the modules of a package by dotted name."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(package.rglob("*.py"))
    }


def imports(package: Path) -> dict[str, dict[str, int]]:
    """Return, for each file, the files of the package that it imports, and the line where it first does."""
    known = modules(package)
    found: dict[str, dict[str, int]] = {}
    for name, path in known.items():
        at: dict[str, int] = {}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for imported in _imported(node, name if path.name == "__init__.py" else name.rpartition(".")[0]):
                module = imported if imported in known else imported.rpartition(".")[0]
                if module in known and module != name:
                    place = _place(package, known[module])
                    at[place] = min(node.lineno, at.get(place, node.lineno))
        found[_place(package, path)] = at
    return found


def _imported(node: ast.AST, here: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parents = here.split(".")[: len(here.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*parents, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def _place(package: Path, path: Path) -> str:
    return path.relative_to(package).as_posix()


def _room(place: str) -> str:
    return place.rpartition("/")[0].partition("/")[0]


def rooms_without_floor(package: Path) -> list[str]:
    rooms = {_room(_place(package, path)) for path in modules(package).values()} - set(FLOOR)
    return [f"room '{room}/' has no floor: give it one in FLOORS and docs/architecture.md" for room in sorted(rooms)]


def arrows_up(package: Path) -> dict[str, str]:
    """Return a sentence for each import of a floor above."""
    top = len(FLOORS)
    return {
        f"{user} -> {used}": f"{user}:{line} (floor {FLOOR.get(_room(user), top)}) imports {used} (floor "
        f"{FLOOR.get(_room(used), top)}): move what both need below them, or hand it in as an argument"
        for user, uses in imports(package).items()
        for used, line in uses.items()
        if FLOOR.get(_room(used), top) > FLOOR.get(_room(user), top)
    }


def circles(package: Path) -> list[str]:
    """Return a sentence for each circle of files; of several that share a file, one after the other must be cut."""
    graph = {user: set(uses) for user, uses in imports(package).items()}
    found = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            files = error.args[1][::-1]  # each imports the next
            found.append("these files import each other: " + " -> ".join(files))
            graph[files[0]].discard(files[1])
        else:
            return found


def names_with_two_homes(package: Path) -> list[str]:
    """Return a sentence for each public name that several modules define.

    Functions and classes are public, constants where another file imports them: a constant of one file is its own.
    """
    trees = {_place(package, path): ast.parse(path.read_text(encoding="utf-8")) for path in modules(package).values()}
    taken = _taken(package, trees)
    homes: dict[str, list[str]] = defaultdict(list)
    for place, tree in trees.items():
        for name in sorted(_defined(tree, {wanted for home, wanted in taken if home == place})):
            if not any(place.startswith(f"{room}/") and names & {"*", name} for room, names in INTERFACES.items()):
                homes[name].append(place)
    return [
        f"'{name}' is defined in {' and '.join(places)}: rename, merge, or make all but one private"
        for name, places in sorted(homes.items())
        if len(places) > 1
    ]


def _taken(package: Path, trees: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """Return what files import from others: home and name."""
    homes = {name: _place(package, path) for name, path in modules(package).items()}
    return {
        (homes[module], name)
        for tree in trees.values()
        for node in ast.walk(tree)
        for module, _, name in (imported.rpartition(".") for imported in _imported(node, package.name))
        if module in homes
    }


def _defined(tree: ast.Module, taken: set[str]) -> set[str]:
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)} & taken
    return {name for name in names if not name.startswith("_")}


def long_files(package: Path) -> list[str]:
    counted = Counter({path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules(package).values()})
    return [
        f"{_place(package, path)} has {lines} lines, more than {MOST_LINES}: it holds two things"
        for path, lines in counted.most_common()
        if lines > MOST_LINES
    ]


def loose_modules(package: Path) -> list[str]:
    loose = sorted(path.name for path in package.glob("*.py"))
    return [f"the root has {len(loose)} modules, more than {MOST_LOOSE}: {loose}"] if len(loose) > MOST_LOOSE else []


@pytest.mark.parametrize(
    "rule",
    [rooms_without_floor, circles, names_with_two_homes, long_files, loose_modules],
    ids=lambda rule: rule.__name__,
)
def test_the_package_keeps(rule):
    broken = rule(PACKAGE)
    assert not broken, "\n".join(["", *broken])


def test_no_file_imports_a_floor_above():
    found = arrows_up(PACKAGE)
    broken = [sentence for arrow, sentence in found.items() if arrow not in ALLOWED]
    assert not broken, "\n".join(["", *broken])
    assert len(ALLOWED) <= 5 and set(ALLOWED) <= set(found), "an allowed arrow is gone: take it from the list"


@pytest.fixture
def house(tmp_path):
    """Return a function that writes a small package."""

    def build(files: dict[str, str]) -> Path:
        package = tmp_path / "hf_compress"
        for name in {"__init__.py", *files, *(f"{_room(name)}/__init__.py" for name in files if "/" in name)}:
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(files.get(name, ""))
        return package

    return build


RIGHT = {
    "ground/errors.py": "class Wrong(Exception): ...\n",
    "models/load.py": "from hf_compress.ground.errors import Wrong\n\ndef load(): ...\n",
    "steps/prune.py": "from hf_compress.models import load\n\ndef prune(): ...\n",
}


def test_a_right_house_keeps_every_rule(house):
    package = house(RIGHT)
    assert not arrows_up(package)
    for rule in (rooms_without_floor, circles, names_with_two_homes, long_files, loose_modules):
        assert rule(package) == []
    assert imports(package)["steps/prune.py"] == {"models/load.py": 1}


@pytest.mark.parametrize(
    "text",
    [
        "from hf_compress.steps.prune import prune\n",
        "from hf_compress.steps import prune\n",
        "import hf_compress.steps.prune\n",
        "from ..steps.prune import prune\n",
        "from ..steps import prune\n",
        "def inside():\n    from hf_compress.steps.prune import prune\n",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from hf_compress.steps.prune import prune\n",
    ],
)
def test_an_arrow_up_is_found_wherever_it_is(house, text):
    package = house(RIGHT | {"ground/files.py": text})
    assert list(arrows_up(package)) == ["ground/files.py -> steps/prune.py"]
    (sentence,) = arrows_up(package).values()
    assert sentence.startswith(f"ground/files.py:{text.count(chr(10))} (floor 1) imports steps/prune.py (floor 7)")


def test_the_root_lies_above_all_rooms(house):
    package = house(RIGHT | {"ground/files.py": "from hf_compress import __version__\n"})
    assert list(arrows_up(package)) == ["ground/files.py -> __init__.py"]


def test_every_circle_is_found(house):
    package = house(
        {
            "steps/a.py": "from hf_compress.steps.b import b\n",
            "steps/b.py": "def f():\n    from hf_compress.steps.c import c\n",
            "steps/c.py": "from hf_compress.steps import a\n",
            "hub/one.py": "from hf_compress.hub.two import two\n",
            "hub/two.py": "from hf_compress.hub.one import one\n",
        }
    )
    found = sorted(circles(package), key=len)
    assert len(found) == 2
    assert "hub/one.py -> hub/two.py" in found[0] and "steps/a.py -> steps/b.py -> steps/c.py" in found[1] * 2


@pytest.mark.parametrize("text", ["def load(): ...\n", "class load: ...\n", "load = 1\n", "load: int = 1\n"])
def test_a_name_with_two_homes_is_found(house, text):
    package = house(RIGHT | {"hub/pull.py": text, "run/use.py": "from hf_compress.hub.pull import load\n"})
    assert names_with_two_homes(package) == [
        "'load' is defined in hub/pull.py and models/load.py: rename, merge, or make all but one private"
    ]


def test_names_of_an_interface_private_names_and_constants_of_one_file_may_repeat(house):
    own = {f"hub/{name}.py": "_b = 1\nBATCH = 64\n\ndef _c(): ...\n" for name in "ab"}
    package = house(RIGHT | {"cli/load.py": "def load(): ...\n"} | own)
    assert names_with_two_homes(package) == []


def test_a_long_file_an_unknown_room_and_a_full_root_are_found(house):
    loose = {f"{name}.py": "" for name in "abc"}
    package = house({"steps/long.py": "\n" * 401, "steps/fits.py": "\n" * 400, "cellar/wine.py": "", **loose})
    assert long_files(package) == ["steps/long.py has 401 lines, more than 400: it holds two things"]
    assert rooms_without_floor(package) == [
        "room 'cellar/' has no floor: give it one in FLOORS and docs/architecture.md"
    ]
    assert loose_modules(package) == []
    assert len(loose_modules(house({"d.py": ""}))) == 1
