"""The order of rooms: data flows one way, and a file imports only from those above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import comdefend
from tests.conftest import ROOT

PACKAGE = Path(comdefend.__file__).parent

ROOMS = (
    "errors", "registry", "threat", "atomic", "seeding", "provenance", "references", "device",
    "convolution", "model", "image", "zoo", "released", "data", "factory", "classifiers", "purifiers",
    "attacks", "training", "evaluation", "paper", "demo", "options", "terminal", "cli",
)  # fmt: skip
"""From the top of the house down; docs/architecture.md says what is in each."""


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports, but for annotations alone."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"comdefend.{a.name}" for a in node.names] if node.module == "comdefend" else []
            yield from names or [node.module]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_a_room_imports_only_from_rooms_above_it() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        assert own in ROOMS, f"{own} has no place in the house"
        for module in imports(path):
            other = room_of(module)
            if module.startswith("comdefend.") and other in ROOMS and ROOMS.index(other) > ROOMS.index(own):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert wrong == []


def test_every_room_is_described() -> None:
    described = (ROOT / "docs" / "architecture.md").read_text()
    missing = [room for room in ROOMS if f"`{room}.py`" not in described and f"`{room}/`" not in described]
    assert missing == []
