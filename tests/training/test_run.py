"""Training runs: what they leave, that resuming changes nothing, and that NaN stops them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from comdefend.classifiers import load_classifier
from comdefend.errors import RequestError, WorkError
from comdefend.purifiers import load_comdefend
from comdefend.training import Recipe, load_recipe, start


def purifier_recipe(*overrides: str) -> Recipe:
    settings = ["data=sample:cifar10", "steps=6", "interval=2", "batch=4", "crop=8", "validation_images=4"]
    return load_recipe("cifar10", [*settings, *overrides])


def test_a_run_leaves_weights_facts_logs_grids_and_a_checkpoint(tmp_path: Path) -> None:
    facts = start(purifier_recipe(), output=tmp_path / "run", device="cpu")
    assert facts is not None
    assert facts.scores["validation_psnr"] > 3
    assert facts.recipe["steps"] == 6
    assert json.loads((tmp_path / "run" / "weights.json").read_text())["sha256"] == facts.sha256
    with (tmp_path / "run" / "csv" / "metrics.csv").open() as file:
        assert [row["psnr"] for row in csv.DictReader(file) if row["psnr"]]
    assert any((tmp_path / "run" / "tensorboard").iterdir())
    assert len(list((tmp_path / "run" / "grids").glob("step-*.png"))) == 3
    assert (tmp_path / "run" / "last.ckpt").is_file()
    purifier = load_comdefend(str(tmp_path / "run" / "weights.safetensors"))
    assert purifier(torch.rand(1, 3, 5, 5)).shape == (1, 3, 5, 5)


@pytest.mark.parametrize("optimiser", ["muon", "adam"])
def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(optimiser: str, tmp_path: Path) -> None:
    recipe = purifier_recipe(f"optimiser={optimiser}")
    start(recipe, output=tmp_path / "unbroken", device="cpu")
    assert start(recipe, output=tmp_path / "broken", device="cpu", stop_after=1) is None
    assert not (tmp_path / "broken" / "weights.safetensors").exists()
    start(recipe, output=tmp_path / "broken", device="cpu", resume=True)
    whole, resumed = (load_file(tmp_path / n / "weights.safetensors") for n in ("unbroken", "broken"))
    assert whole.keys() == resumed.keys()
    for key in whole:
        assert torch.equal(whole[key], resumed[key]), key


def test_a_run_killed_before_its_last_file_is_finished_by_resuming(tmp_path: Path) -> None:
    first = start(purifier_recipe("steps=2"), output=tmp_path, device="cpu")
    (tmp_path / "weights.safetensors").unlink()
    again = start(purifier_recipe("steps=2"), output=tmp_path, device="cpu", resume=True)
    assert first == again


def test_a_run_is_not_resumed_with_other_settings(tmp_path: Path) -> None:
    start(purifier_recipe(), output=tmp_path, device="cpu", stop_after=1)
    with pytest.raises(RequestError, match=r"begun with another learning_rate: learning_rate=0\.008"):
        start(purifier_recipe("learning_rate=0.1"), output=tmp_path, device="cpu", resume=True)


def test_a_folder_of_photographs_of_many_sizes_is_trained_on(
    tmp_path: Path, image_file: Callable[..., Path]
) -> None:
    for number, size in enumerate([(40, 33), (200, 150), (64, 64)]):
        image_file(f"photos/{number}.png", size=size)
    recipe = load_recipe("folder", [f"data={tmp_path}/photos", "steps=1", "interval=1", "batch=1"])
    facts = start(recipe, output=tmp_path / "run", device="cpu")
    assert facts is not None
    assert facts.scores["images"] == 1


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from comdefend.training.modules import PurifierTraining

    draw = PurifierTraining._draw

    def interrupt(self: PurifierTraining, *images: torch.Tensor) -> None:
        draw(self, *images)
        if self.global_step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(PurifierTraining, "_draw", interrupt)
    with pytest.raises(WorkError, match="interrupted at step 4; continue with --resume"):
        start(purifier_recipe(), output=tmp_path, device="cpu")
    monkeypatch.setattr(PurifierTraining, "_draw", draw)
    assert start(purifier_recipe(), output=tmp_path, device="cpu", resume=True) is not None


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"broken")
    with pytest.raises(RequestError, match="is no checkpoint of a run"):
        start(purifier_recipe(), output=tmp_path, device="cpu", resume=True)


def test_a_grey_purifier_is_trained_for_grey_data(tmp_path: Path) -> None:
    recipe = load_recipe(
        "fashion-mnist",
        ["data=sample:fashion-mnist", "steps=1", "interval=1", "batch=2", "crop=8", "validation_images=2"],
    )
    facts = start(recipe, output=tmp_path, device="cpu")
    assert facts is not None
    assert (facts.architecture["image_channels"], facts.architecture["bits"]) == (1, 4)


def test_a_classifier_is_trained_and_loads_by_path(tmp_path: Path) -> None:
    recipe = load_recipe(
        "cifar10-resnet9",
        [
            "data=sample:cifar10", "epochs=2", "interval=10", "batch=100", "validation_images=50",
            "classifier.cutout=8",
        ],
    )  # fmt: skip
    facts = start(recipe, output=tmp_path, device="cpu")
    assert facts is not None
    assert facts.scores["validation_accuracy"] > 0.1
    logits = load_classifier(str(tmp_path / "weights.safetensors"))(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 10)


def test_training_stops_on_nan_and_says_what_to_do(tmp_path: Path) -> None:
    recipe = purifier_recipe("optimiser=sgd", "learning_rate=1e30", "warmup=0")
    with pytest.raises(WorkError, match=r"the loss is nan at step \d: .*lower learning_rate"):
        start(recipe, output=tmp_path, device="cpu")
    assert not (tmp_path / "weights.safetensors").exists()


def test_a_run_is_not_overwritten_and_nothing_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nothing to resume"):
        start(purifier_recipe(), output=tmp_path, device="cpu", resume=True)
    start(purifier_recipe("steps=2"), output=tmp_path, device="cpu")
    with pytest.raises(RequestError, match="holds a run already"):
        start(purifier_recipe(), output=tmp_path, device="cpu")
