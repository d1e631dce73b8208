"""Which part of the package imports which: read from the source, so that deferred imports count as well."""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def module_files() -> dict[str, Path]:
    """Every module of lrsms by its name."""
    names = {}
    for path in sorted((ROOT / "lrsms").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(path: Path, package: str) -> Iterator[str]:
    """Dotted names that a file imports anywhere, such as ``lrsms.data.cuts.build_cuts``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def module_graph() -> dict[str, set[str]]:
    """Modules of lrsms that each module imports."""
    files = module_files()
    graph = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found = set()
        for target in imported(path, package):
            while target and target not in files:
                target = target.rpartition(".")[0]
            found.add(target)
        graph[name] = found - {name, ""}
    return graph


def package_of(module: str) -> str:
    """The part that a module belongs to: ``lrsms.data``, or a module beside it such as ``lrsms.errors``.

    The corpora are a part of their own: they use both lrsms.data and lrsms.avsr, which uses lrsms.data.
    """
    corpora = "lrsms.data.corpora"
    return corpora if f"{module}.".startswith(f"{corpora}.") else ".".join(module.split(".")[:2])


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Names that import each other in a circle, the first once more at the end; empty where there are none."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if found := search(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := search(name, []))), [])


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
    ],
)
def test_cycles_are_found(graph, expected):
    assert cycle(graph) == expected


def test_no_modules_import_each_other():
    graph = module_graph()
    assert len(graph) > 100 and "lrsms.errors" in graph["lrsms.data.manifests"]
    assert cycle(graph) == []


def test_no_packages_import_each_other():
    graph: dict[str, set[str]] = {}
    for name, targets in module_graph().items():
        if name != "lrsms":  # what it imports on demand is for its users
            graph.setdefault(package_of(name), set()).update({package_of(target) for target in targets} - {"lrsms"})
    graph = {name: targets - {name} for name, targets in graph.items()}
    assert "lrsms.data" in graph["lrsms.avsr"]
    assert cycle(graph) == []


def test_nothing_imports_a_corpus_but_another_corpus():
    """They are found by their names, so that a new one touches no other file."""
    importing = {name for name, targets in module_graph().items() for target in targets
                 if target.startswith("lrsms.data.corpora.")}  # fmt: skip
    assert importing == {"lrsms.data.corpora.talking_digits"}


def test_low_rank_core_imports_torch_and_the_standard_library():
    allowed = {"torch", *sys.stdlib_module_names}
    for name, path in module_files().items():
        if package_of(name) == "lrsms.lowrank":
            targets = set(imported(path, name))
            ours = {package_of(target) for target in targets if target.startswith("lrsms.")}
            assert ours <= {"lrsms.lowrank", "lrsms.errors"}, name
            assert {target.split(".")[0] for target in targets} - {"lrsms"} <= allowed, name


def test_only_the_bridge_imports_espnet():
    importing = {
        package_of(name)
        for name, path in module_files().items()
        if any(target.startswith("espnet") for target in imported(path, name))
    }
    assert importing == {"lrsms.espnet"}


# Rooms of lrsms.espnet; each imports from itself and from those on the lines above it.
ROOMS = [
    {"explain", "option_values"},
    {"config", "compat"},
    {"checkpoints"},
    {"models"},
    {"plugin", "data"},
    {"training", "inference"},
    {"export", "compress"},
    {"bench"},
]


def room_of(module: str) -> str:
    """The room of a module of lrsms.espnet, such as ``models``; empty for others and for the package itself."""
    return module.split(".")[2] if module.startswith("lrsms.espnet.") else ""


def test_rooms_of_the_bridge_import_from_those_before_them():
    place = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    pairs = {
        (room, other)
        for name, targets in module_graph().items()
        for target in targets
        if (room := room_of(name)) and (other := room_of(target)) and room not in (other, "__main__")
    }
    assert {room for pair in pairs for room in pair} == set(place)
    assert [pair for pair in sorted(pairs) if place[pair[1]] >= place[pair[0]]] == []


def test_every_module_of_the_bridge_is_in_a_room():
    rooms = {room_of(name) for name in module_files()} - {"", "__main__"}
    assert rooms == set().union(*ROOMS)
