"""The documentation: its commands work, its tables are those of the results files, its links lead on."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

from comdefend.cli import main
from tests.conftest import ROOT, TinyClassifier

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAX_BYTES = 5_000_000
"""Bytes of committed results, in all."""
RESULTS = sorted((ROOT / "experiments").glob("*/results/**/*.json"))


def commands() -> list[str]:
    """The lines of the README's shell blocks that call comdefend."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("comdefend ")]


def test_the_readme_shows_the_commands_it_should() -> None:
    shown = {shlex.split(command)[1] for command in commands()}
    assert shown == {"purify", "models", "evaluate", "train", "reproduce"}


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_the_readmes_commands_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As written, on small stand-ins for the reader's files; trainings and evaluations cut short."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for place in ("photo.jpg", "photos/a.jpg", "more/b.png", "path/to/images/c.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 60).convert("RGB").save(tmp_path / place)
    (tmp_path / "path" / "to" / "net.py").write_text(
        "from torch import nn\n"
        "def make_net():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))\n"
    )
    for name in ("cat", "dog"):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        Image.effect_noise((32, 32), 60).convert("RGB").save(tmp_path / "labelled" / name / "0.png")
    words = shlex.split(command)[1:]
    if "<" in words:
        done = subprocess.run(
            f"{sys.executable} -m {command}",
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return
    monkeypatch.setenv("COMDEFEND_DATA", str(tmp_path / "named"))
    (tmp_path / "named" / "cifar10").mkdir(parents=True)
    shipped = ROOT / "src" / "comdefend" / "samples" / "cifar10.parquet"
    (tmp_path / "named" / "cifar10" / "test-0.parquet").write_bytes(shipped.read_bytes())
    if words[0] == "train":
        words += ["steps=1", "interval=1", "batch=1", "validation_images=1", "--device", "cpu"]
    if words[0] == "evaluate":
        words = ["labelled" if word == "path/to/images" else word for word in words]
        words += ["--limit", "2"]
    if "white-box" in words:
        words += ["--defences", "gaussian", "--epsilons", "8"]  # of the same kind, and quick
    if words[0] == "reproduce":
        words += ["--limit", "1", "--protocol", "minimal"]
    assert main(words) == 0, capsys.readouterr().err


def test_the_readmes_python_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks in turn, with a classifier, images and a file of the kind it speaks of."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.effect_noise((20, 20), 60).convert("RGB").save("photo.jpg")
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    scope = {"classifier": TinyClassifier(classes=10).eval(), "images": torch.rand(2, 3, 32, 32)}
    code = "\n".join(blocks).replace('attacks=["fgsm", "bim"]', 'attacks=["fgsm", "bim"], limit=3')
    exec(code, scope)
    assert scope["clean"].shape == (2, 3, 32, 32)  # type: ignore[attr-defined]
    assert scope["defended"](scope["images"]).shape == (2, 10)  # type: ignore[operator]
    assert len(scope["report"].results) == 10  # type: ignore[attr-defined]
    assert (tmp_path / "purified.png").is_file()


def test_committed_results_are_small_and_json_or_figures() -> None:
    words = ["git", "ls-files", "-z", "--", ":(glob)experiments/*/results/**"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    if not files:
        pytest.skip("this is no git checkout")
    assert {file.suffix for file in files} <= {".json", ".png", ".svg"}
    assert sum(file.stat().st_size for file in files if file.is_file()) <= MAX_BYTES


def test_results_files_say_where_their_numbers_come_from() -> None:
    assert RESULTS
    for path in (
        path for path in RESULTS if not path.name.startswith("checks")
    ):  # of the results beside them
        content = json.loads(path.read_text())
        for record in content.get("provenance", [content]) if isinstance(content, dict) else content:
            for key in ("seed", "software", "hardware", "commit"):
                assert record[key] not in (None, {}), (path.name, key)


@pytest.mark.parametrize("kind", ["results", "checks"])
def test_results_files_keep_to_the_published_schema(kind: str) -> None:
    schema = json.loads((ROOT / "docs" / f"{kind}.schema.json").read_text())
    validator = Draft202012Validator(schema)
    validator.check_schema(schema)
    seen = 0
    for path in RESULTS:
        content = json.loads(path.read_text())
        if kind == "results" and "provenance" in content:
            validator.validate(content)
            seen += 1
            first, *others = content["results"]
            assert not validator.is_valid({**content, "results": [{**first, "n": "ten"}, *others]})
        elif kind == "checks" and path.name.startswith("checks"):
            validator.validate(content)
            seen += 1
            assert not validator.is_valid([{**content[0], "defence": 1}])
    assert seen > 3


def anchors(page: Path) -> set[str]:
    """What links to the headings of a page end with, after the #."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


def test_the_makefile_has_the_readmes_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
