"""The guided purifier: its tables, and how the changes to its training are measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comdefend.atomic import write_json
from comdefend.evaluation import Result, read_results, write_results
from experiments.guided import experiment, tables
from tests.experiments.records import PROVENANCE, everything, keep, result

TITLES = {"whole": "nothing", "pixels": "no guides"}


def test_changes_to_the_training_are_shown_in_their_order(tmp_path: Path) -> None:
    assert tables.parts(tmp_path, TITLES) == "Not run yet."
    for name, defence, facts in (("pixels", "none", {}), ("whole", "comdefend", {"psnr": 24.04})):
        keep(tmp_path / f"{name}.json", everything("own.safetensors", defence), {**facts, **PROVENANCE})
    _, _, whole, alone, *_ = tables.parts(tmp_path, TITLES).splitlines()
    assert whole.startswith("| nothing | 24.0 | 87.5 ")
    assert alone.startswith("| no guides")
    assert alone.split("|")[2].strip() == "-"
    assert alone.split("|")[3].split()[:2] == ["87.5,", "+0.0"]  # the difference from the whole


def test_changes_to_the_training_have_the_columns_that_were_measured(tmp_path: Path) -> None:
    results = [
        r for r in everything("own.safetensors", "comdefend")
        if r.threat_model is None or r.threat_model.epsilon == 8 / 255
    ]  # fmt: skip
    keep(tmp_path / "whole.json", results, PROVENANCE)
    heads = [head.strip() for head in tables.parts(tmp_path, TITLES).splitlines()[0].split("|")[1:-1]]
    wanted = ["clean", "8/255", "BIM-50, 8/255", "other networks', 8/255", "white-box, 8/255"]
    assert heads == ["changed", "PSNR", *wanted]


def test_frozen_classifiers_have_a_line_for_each_purifier(tmp_path: Path) -> None:
    titles = {"resnet20": "ResNet-20", "resnet32": "ResNet-32"}
    assert tables.classifiers(tmp_path, titles) == "Not run yet."
    shown = [result("net", "none", 8), *everything("net", "jpeg"), *everything("net", "p/own.safetensors")]
    write_results(tmp_path / "resnet32.json", shown)
    assert tables.classifiers(tmp_path, titles) == "Not run yet."  # not complete
    write_json(tmp_path / "resnet32.facts.json", {})
    _, _, *lines, _, origin = tables.classifiers(tmp_path, titles).splitlines()
    cells = [[cell.split() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[1] for row in cells] == [["none"], ["`jpeg`"], ["`own.safetensors`"]]
    assert [cell[0] if cell else "" for cell in cells[0][2:]] == ["100.0"] + [""] * 10
    # clean, all of gray-box, FGSM, BIM (not made here), then what the other pages have
    expected = ["87.5", "50.0", "50.0", "", "75.0", "62.5", "50.0", "25.0", "50.0", "62.5", "12.5"]
    assert [cell[0] if cell else "" for cell in cells[2][2:]] == expected
    assert "commit abc" in origin


def test_every_change_trains_another_recipe() -> None:
    recipes = {json.dumps(experiment.recipe_of(name).to_dict()) for name in experiment.CHANGES}
    assert len(recipes) == len(experiment.CHANGES)


def test_the_changes_meet_one_attack_and_have_a_file_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def attack_with_all(network: str, *purifiers: str, **_: Any) -> list[Result]:
        calls.append(purifiers)
        return [replace(result("net", name, 4), fingerprint=name) for name in ("none", *purifiers)]

    for name, substitute in (
        ("RESULTS", tmp_path), ("attack_with_all", attack_with_all), ("unseen", lambda: None),
        ("trained", lambda recipe, stem: stem), ("facts_of", lambda purifier, data: {"of": purifier}),
    ):  # fmt: skip
        monkeypatch.setattr(experiment, name, substitute)
    assert not experiment.done("parts")
    experiment.measure("parts")
    assert experiment.done("parts")
    assert [len(purifiers) for purifiers in calls] == [len(experiment.CHANGES)]
    for name in experiment.CHANGES:
        facts = json.loads((tmp_path / f"{name}.facts.json").read_text())
        own = [r.defence for r in read_results(tmp_path / f"{name}.json")]
        assert own == ["none", facts["of"]]
        assert facts["of"].endswith(f"/{name}")
