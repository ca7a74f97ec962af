"""`PATH.py:FACTORY`."""

import importlib
import pickle
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from torch import nn

from comdefend.errors import RequestError
from comdefend.factory import is_factory, load_factory
from comdefend.purifiers import Identity


def test_a_python_file_is_a_factory() -> None:
    assert is_factory("a/b.py:make")
    for other in ("comdefend", "timm:resnet", "comdefend:weights=a.py", "a.python"):
        assert not is_factory(other)


@pytest.mark.parametrize("reference", ["a/b.py", "a/b.py:", "a/b.py:3x", "a/b.py:net.make"])
def test_a_python_file_without_a_function_says_what_to_write(reference: str) -> None:
    assert is_factory(reference)
    with pytest.raises(RequestError, match=r"write a/b\.py:FACTORY"):
        load_factory(reference)


def write(folder: Path, **files: str) -> Path:
    """Python files by their paths in the folder, without `.py`."""
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def width(reference: str) -> int:
    """What a factory that makes a linear layer takes."""
    made = load_factory(reference)
    assert isinstance(made, nn.Linear)
    return made.in_features


IMPORTS = {
    "a name": "import {0} as helper",
    "a member": "from {0} import WIDTH; helper = type('', (), dict(WIDTH=WIDTH))",
    "all members": "from {0} import *; helper = type('', (), dict(WIDTH=WIDTH))",
    "by a string": "import importlib; helper = importlib.import_module('{0}')",
    "relative": "from . import {0} as helper",
}


@pytest.mark.parametrize("statement", IMPORTS.values(), ids=IMPORTS)
def test_each_file_imports_its_own_neighbour(statement: str, tmp_path: Path) -> None:
    net = (
        f"from torch import nn\n{statement.format('model')}\ndef make(): return nn.Linear(helper.WIDTH, 1)\n"
    )
    for folder, value in (("a", 7), ("b", 8)):
        write(tmp_path / folder, net=net, model=f"WIDTH = {value}\n")
    before = list(sys.path), set(sys.modules)
    found = [width(f"{tmp_path}/{folder}/net.py:make") for folder in ("a", "b", "a")]
    assert found == [7, 8, 7]
    assert sys.path == before[0]
    assert not [n for n in set(sys.modules) - before[1] if not n.startswith("comdefend_user")]


@pytest.mark.parametrize(
    "name", ["image", "data", "datasets", "utils", "foolbox", "statistics", "numpy", "safetensors", "yaml"]
)
def test_a_neighbour_may_have_the_name_of_a_library(name: str, tmp_path: Path) -> None:
    net = f"import {name}\nfrom torch import nn\ndef make(): return nn.Linear({name}.WIDTH, 1)\n"
    for folder, value in (("a", 7), ("b", 8)):
        write(tmp_path / folder, net=net, **{name: f"WIDTH = {value}\n"})
    before = sys.modules.get(name)
    assert [width(f"{tmp_path}/{folder}/net.py:make") for folder in ("a", "b")] == [7, 8]
    assert sys.modules.get(name) is before


def test_libraries_are_not_given_a_neighbour_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = "from torch import nn\nimport sched\ndef make(): return nn.Linear(3, 1)\n"
    write(tmp_path, net=net, heapq="raise RuntimeError('sched wants another')\n")
    for name in ("sched", "heapq"):  # the first imports the second
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert width(f"{tmp_path}/net.py:make") == 3


def test_packages_beside_the_file_are_its_own(tmp_path: Path) -> None:
    net = (
        "from torch import nn\nimport models.small\nimport models.small as small\nfrom models import build\n"
        "def make():\n    assert models.small is small\n    return build()\n"
    )
    package = (
        "from models.small import WIDTH\nfrom . import small\nfrom torch import nn\n"
        "def build(): return nn.Linear(WIDTH, 1)\n"
    )
    for folder, value in (("a", 7), ("b", 8)):
        files = {"models/__init__": package, "models/small": f"WIDTH = {value}\n"}
        write(tmp_path / folder, net=net, **files)
    assert [width(f"{tmp_path}/{folder}/net.py:make") for folder in ("a", "b")] == [7, 8]


def test_what_is_imported_late_is_the_files_own_too(tmp_path: Path) -> None:
    net = (
        "from torch import nn\nclass Net(nn.Module):\n    def forward(self, images):\n"
        "        import late\n        return images * late.FACTOR\n"
        "def make():\n    import early\n    return Net()\n"
    )
    for folder, value in (("a", 7), ("b", 8)):
        write(tmp_path / folder, net=net, early="", late=f"import early\nFACTOR = {value}\n")
    made = [load_factory(f"{tmp_path}/{folder}/net.py:make") for folder in ("a", "b")]
    assert [float(network(torch.ones(()))) for network in made] == [7.0, 8.0]


def test_folders_that_a_file_adds_to_the_path_are_searched_for_it_alone(tmp_path: Path) -> None:
    net = (
        "import os, sys\nfrom torch import nn\n"
        "sys.path.append(os.path.join(os.path.dirname(__file__), 'lib'))\nimport model\n"
        "class Net(nn.Module):\n    def forward(self, images):\n"
        "        import late\n        return images * late.FACTOR * model.FACTOR\n"
        "def make(): return Net()\n"
    )
    for folder, value in (("a", 7), ("b", 8)):
        write(tmp_path / folder, net=net, **dict.fromkeys(("lib/model", "lib/late"), f"FACTOR = {value}\n"))
    before = list(sys.path)
    made = [load_factory(f"{tmp_path}/{folder}/net.py:make") for folder in ("a", "b")]
    assert [float(network(torch.ones(()))) for network in made] == [49.0, 64.0]
    assert sys.path == before


def test_a_folder_of_data_is_no_package(tmp_path: Path) -> None:
    """As Python has it: a folder without `__init__.py` gives way to a package that is installed."""
    (tmp_path / "yaml").mkdir()
    net = "import yaml\nfrom torch import nn\ndef make(): return nn.Linear(yaml.safe_load('3'), 1)\n"
    assert width(f"{write(tmp_path, net=net)}/net.py:make") == 3


def test_a_file_beside_this_package_gets_this_package(tmp_path: Path) -> None:
    """Not a second copy of it, whose classes would be others."""
    source = Path(importlib.import_module("comdefend").__path__[0]).parent
    net = (
        f"import sys\nsys.path.insert(0, {str(source)!r})\nfrom comdefend.purifiers import Identity\n"
        "def make(): return Identity()\n"
    )
    assert isinstance(load_factory(f"{write(tmp_path, net=net)}/net.py:make"), Identity)


def test_classes_of_a_file_know_their_module(tmp_path: Path) -> None:
    """Dataclasses under postponed annotations, pickles and type hints look it up."""
    net = (
        "from __future__ import annotations\nimport pickle\nfrom dataclasses import dataclass\n"
        "from torch import nn\n@dataclass\nclass Config:\n    width: int = 3\n"
        "    inner: Config | None = None\n"
        "class Net(nn.Linear):\n    config = Config()\n"
        "def make(): return pickle.loads(pickle.dumps(Net(Config().width, 1)))\n"
    )
    made = load_factory(f"{write(tmp_path, net=net)}/net.py:make")
    load_factory(f"{tmp_path}/net.py:make")
    assert type(pickle.loads(pickle.dumps(made))) is type(made)
    config = type(made).config  # type: ignore[attr-defined]
    assert [f.name for f in fields(config)] == ["width", "inner"]
    assert get_type_hints(type(config))["width"] is int


def test_a_whole_network_that_was_pickled_beside_the_file_is_read(tmp_path: Path) -> None:
    """By the names that its modules had in the program that wrote it."""
    layers = "from torch import nn\nclass Layer(nn.Linear): pass\n"
    net = (
        "import os, torch\nfrom torch import nn\nfrom layers import Layer\nclass Net(Layer): pass\n"
        "def make():\n"
        "    path = os.path.join(os.path.dirname(__file__), 'net.pt')\n"
        "    made = torch.load(path, weights_only=False)\n"
        "    assert type(made) is Net\n    return made\n"
    )
    write(tmp_path, net=net, layers=layers)
    sys.path.insert(0, str(tmp_path))
    try:
        torch.save(importlib.import_module("net").Net(5, 1), tmp_path / "net.pt")
    finally:
        sys.path.remove(str(tmp_path))
        theirs = [sys.modules.pop(name) for name in ("net", "layers")]
    assert theirs
    assert width(f"{tmp_path}/net.py:make") == 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_code_of_a_file_can_be_scripted(tmp_path: Path) -> None:
    net = (
        "import torch\nfrom torch import nn\nfrom scale import scaled\n"
        "class Net(nn.Module):\n    def forward(self, images):\n"
        "        return scaled(images, max(2, len(images)))\n"
        "def make(): return torch.jit.script(Net())\n"
    )
    scale = "import torch\ndef scaled(images: torch.Tensor, factor: int):\n    return images * factor\n"
    made = load_factory(f"{write(tmp_path, net=net, scale=scale)}/net.py:make")
    assert float(made(torch.ones(3)).sum()) == 9.0


def test_a_file_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path, net="import sys, helper\nsys.path.append('x')\n1 / 0\n", helper="")
    before = list(sys.path), set(sys.modules), list(sys.meta_path)
    with pytest.raises(RequestError, match="ZeroDivisionError"):
        load_factory(f"{tmp_path}/net.py:make")
    assert (sys.path, set(sys.modules), sys.meta_path) == before


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "failed: ZeroDivisionError"),
        ("import sys; sys.exit(0)", "failed: SystemExit"),
        ("return 3", "returned a int"),
    ],
)
def test_a_file_that_fails_says_how(body: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(f"def make():\n    {body}\n")
    with pytest.raises(RequestError, match=message):
        load_factory(f"{tmp_path}/net.py:make")


def test_what_a_file_prints_leaves_standard_output_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n    print('hello')\n    return nn.Linear(1, 1)\n"
    )
    assert not load_factory(f"{tmp_path}/net.py:make").training
    assert capsys.readouterr().out == ""
