"""Files appear whole or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from comdefend.atomic import check_writable, output_folder, replacing, write_json
from comdefend.errors import RequestError


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


def test_a_file_that_must_be_new_does_not_replace_what_another_process_wrote(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with replacing(target, exclusive=True) as temporary:
        temporary.write_text("mine")
    with pytest.raises(RequestError, match="exists already"), replacing(target, exclusive=True) as temporary:
        temporary.write_text("another")
    assert target.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_output_folder_belongs_to_one_at_a_time(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out"):
        with (
            pytest.raises(RequestError, match=rf"out'?: process {os.getpid()} on \S+ is at work there"),
            output_folder(tmp_path / "out"),
        ):
            pass
        (tmp_path / "out" / "part").touch()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["part"]
    with output_folder(tmp_path / "out"):
        pass


def test_the_lock_of_a_process_that_was_killed_does_not_count(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from comdefend.atomic import output_folder\n"
        "with output_folder(Path(sys.argv[1])): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "out"]).returncode == 9
    assert list((tmp_path / "out").iterdir())  # it could not clear up
    with output_folder(tmp_path / "out"):
        pass
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["file", "file/below", "broken", "/proc/nothing"])
def test_an_output_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RequestError, match="cannot be a folder"):
        check_writable(tmp_path / name)
    with pytest.raises(RequestError, match="cannot be a folder"), output_folder(tmp_path / name):
        pass
    check_writable(tmp_path / "new" / "deep")
    assert sorted(tmp_path.iterdir()) == before
