"""The command line of experiments, and the files that it generates."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from experiments import __main__, experiment, pages
from experiments.experiment import Experiment, load, names, title
from experiments.markdown import origin
from tests.conftest import ROOT
from tests.experiments.records import PROVENANCE


def command(*words: str) -> Result:
    return CliRunner().invoke(__main__.app, words)


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """One experiment with one table and one page more, in a folder of its own; call it to set the table."""
    table = ["1"]
    mine = Experiment(
        parts=[], run=lambda _: None, done=lambda _: True, tables={"all": lambda: table[0]},
        pages={"more": "# More\n\n<!-- tables: mine/all mine/all -->\n"},
    )  # fmt: skip
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    monkeypatch.setattr(pages, "load", lambda _: mine)
    monkeypatch.setattr(pages, "template", lambda _: "# Mine\n\n<!-- tables: mine/all -->\n\nWhat it says.\n")

    def write(text: str) -> None:
        table[0] = text

    return write


def test_a_page_is_its_template_with_tables(made_up: Callable[[str], None], tmp_path: Path) -> None:
    page, more = pages.generated(["mine"], others=False).items()
    assert [path.relative_to(tmp_path) for path, _ in (page, more)] == [Path("mine.md"), Path("mine/more.md")]
    source, text = page[1].split("\n\n", 1)
    assert "edit experiments/mine" in source
    assert text == "# Mine\n\n<!-- tables: mine/all -->\n\n1\n\n<!-- end -->\n\nWhat it says.\n"
    assert more[1].endswith("# More\n\n<!-- tables: mine/all mine/all -->\n\n1\n\n1\n\n<!-- end -->\n")
    made_up("2")
    assert pages.filled(text) == text.replace("1", "2")  # in place, as in the README


def test_a_page_is_stale_where_results_changed(made_up: Callable[[str], None], tmp_path: Path) -> None:
    def stale() -> list[str]:
        return [page.name for page in pages.stale(pages.generated(["mine"], others=False))]

    assert stale() == ["mine.md", "more.md"]
    (tmp_path / "mine").mkdir()
    for page, text in pages.generated(["mine"], others=False).items():
        page.write_text(text)
    assert stale() == []
    made_up("2")
    assert stale() == ["mine.md", "more.md"]


def test_the_pages_are_those_of_the_results() -> None:
    done = command("render", "--check")
    assert (done.exit_code, done.output) == (0, "up to date\n")


def test_check_writes_nothing_and_exits_with_1_where_a_page_is_stale(
    made_up: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(__main__, "ROOT", tmp_path)
    done = command("render", "--check", "guided")
    assert (done.exit_code, done.output) == (1, "guided.md\nguided/more.md\n")
    assert not list(tmp_path.iterdir())
    assert command("render", "guided").exit_code == 0
    assert command("render", "--check", "guided").exit_code == 0
    made_up("2")
    assert command("render", "--check", "guided").exit_code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nothing"], "there is no experiment 'nothing'"),
        (["render", "nothing"], "there is no experiment 'nothing'"),
        (["run", "guided", "nothing"], "guided has no part 'nothing'"),
    ],
)
def test_unknown_names_are_refused(words: list[str], message: str) -> None:
    done = command(*words)
    assert done.exit_code == 2
    assert message in " ".join(re.sub(r"[│\n]", " ", done.output).split())


def test_what_is_run_is_named_or_has_no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Sequence[str]] = []
    mine = Experiment(parts=["a", "b", "c"], run=calls.append, done=lambda part: part == "b", tables={})
    monkeypatch.setattr(__main__, "load", lambda _: mine)
    for words in ([], ["c", "b"]):
        assert command("run", "guided", *words).exit_code == 0
    assert calls == [["a", "c"], ["c", "b"]]
    assert " 1/3 " in command("list").output


def test_the_module_is_the_command_line() -> None:
    words = [sys.executable, "-m", "experiments", "list"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == names()


def test_parts_are_run_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []
    experiment.in_turn(calls.append)(["b", "a"])
    assert calls == ["b", "a"]
    assert capsys.readouterr().err.split() == ["b", "a"]


@pytest.mark.parametrize("name", names())
def test_an_experiment_has_a_title_results_and_its_tables_on_pages(name: str) -> None:
    assert title(name)
    assert list((experiment.FOLDER / name / "results").rglob("*.json"))
    mine = load(name)
    texts = "".join([experiment.template(name), *mine.pages.values(), (ROOT / "README.md").read_text()])
    for table in mine.tables:
        assert f"{name}/{table} " in texts


def test_numbers_of_several_machines_name_each() -> None:
    other = {**PROVENANCE, "commit": "def", "hardware": {"processor": "q", "cores": 4, "gpu": "G"}}
    text = origin(PROVENANCE, other, PROVENANCE)
    assert text == "<sub>seed 0, commit abc, def, 2 cores (p), G, 4 cores (q), torch 2</sub>"
