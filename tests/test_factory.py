"""`PATH.py:FACTORY`."""

from pathlib import Path

import pytest
from torch import nn

from comdefend.errors import RequestError
from comdefend.factory import is_factory, load_factory


def test_only_a_python_file_and_a_name_are_a_factory() -> None:
    assert is_factory("a/b.py:make")
    for other in ("comdefend", "a.py", "a.py:", "a.py:3x", "timm:resnet", "comdefend:weights=a.py"):
        assert not is_factory(other)


def test_the_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("WIDTH = 7\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\nimport neighbour_of_mine as n\ndef make():\n    return nn.Linear(n.WIDTH, 1)\n"
    )
    made = load_factory(f"{tmp_path}/net.py:make")
    assert isinstance(made, nn.Linear)
    assert made.in_features == 7


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
