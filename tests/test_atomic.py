"""Files appear whole or not at all."""

import json
from pathlib import Path

import pytest

from comdefend.atomic import output_folder, replacing, write_json


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with replacing(target) as temporary:
        temporary.write_text("done")
        assert not target.exists()
    assert target.read_text() == "done"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_an_error_leaves_the_old_content_alone(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_json_is_readable_by_others(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2]}
    assert (tmp_path / "a.json").stat().st_mode & 0o044


def test_an_output_folder_is_gone_again_where_the_work_left_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("deep/new", "mine"):
        with pytest.raises(RuntimeError), output_folder(tmp_path / name):
            raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(RuntimeError), output_folder(tmp_path / "deep" / "new"):
        (tmp_path / "deep" / "new" / "part").write_text("done")
        raise RuntimeError
    assert (tmp_path / "deep" / "new" / "part").is_file()
