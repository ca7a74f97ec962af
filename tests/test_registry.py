"""Registries: names that files of this package and other installed packages add."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from comdefend.attacks import attacks
from comdefend.purifiers import purifiers
from comdefend.registry import Registry

PLUGIN = """
from dataclasses import dataclass
from comdefend.attacks import Attack
from comdefend.purifiers import Purifier


@dataclass(frozen=True)
class Brighter(Attack):
    name = "brighter"

    def run(self, model, images, goal, epsilon):
        return (images + epsilon).clamp(0, 1)


class Halves(Purifier):
    def purify(self, images):
        return images / 2
"""


def test_things_are_listed_by_name_and_registered_once() -> None:
    assert {"comdefend", "jpeg", "none", "tv"} <= set(purifiers)
    assert list(attacks) == sorted(attacks)
    with pytest.raises(ValueError, match="'jpeg' is registered twice"):
        purifiers.register("jpeg")(len)
    with pytest.raises(KeyError):
        attacks["unknown"]


def test_another_package_adds_an_attack_and_a_purifier(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    facts = tmp_path / "plugin-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[comdefend.attacks]\nbrighter = plugin:Brighter\n"
        "[comdefend.purifiers]\nhalves = plugin:Halves\njpeg = plugin:Halves\n"
    )
    code = (
        "import comdefend, json, torch\n"
        "from comdefend.attacks import find_attack\n"
        "images = torch.full((1, 3, 4, 4), 0.5)\n"
        "half = comdefend.load('halves')(images)\n"
        "attack = find_attack('brighter', 'fixed')\n"
        "model = lambda x: x\n"
        "made = attack(torch.nn.Flatten(), images, torch.tensor([0]), epsilon=0.25)\n"
        "jpeg = type(comdefend.load('jpeg')).__name__\n"
        "print(json.dumps([float(half.mean()), float(made.mean()), jpeg]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [0.25, 0.75, "JPEG"]
    assert "the name 'jpeg' of plugin:Halves is taken" in done.stderr


def test_a_registry_of_a_package_finds_the_files_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "zoo_of_things"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from comdefend.registry import Registry\nthings = Registry('zoo_of_things')\n"
    )
    (folder / "one.py").write_text("from zoo_of_things import things\nthings.register('one')(1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import zoo_of_things  # type: ignore[import-not-found]

    assert dict(zoo_of_things.things) == {"one": 1}
    assert isinstance(zoo_of_things.things, Registry)
