"""Training runs: what they leave, that resuming changes nothing, and that NaN stops them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

import comdefend
from comdefend import zoo
from comdefend.classifiers import load_classifier
from comdefend.data import ImageSet
from comdefend.errors import RequestError, WorkError
from comdefend.purifiers import JPEG, load_comdefend
from comdefend.training import Recipe, load_recipe, start
from comdefend.training.classifier import ClassifierTraining
from comdefend.training.purifier import with_noise


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
    from comdefend.training.purifier import PurifierTraining

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
        "cifar10-resnet9-plain",
        [
            "data=sample:cifar10", "epochs=2", "interval=10", "batch=100", "validation_images=50",
            "classifier.cutout=8", "classifier.widths=[16,24,32]",
        ],
    )  # fmt: skip
    facts = start(recipe, output=tmp_path, device="cpu")
    assert facts is not None
    assert facts.scores["validation_accuracy"] > 0.1
    logits = load_classifier(str(tmp_path / "weights.safetensors"))(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 10)


def classifier_recipe(*overrides: str) -> Recipe:
    settings = ["data=sample:cifar10", "interval=2", "batch=250", "validation_images=20"]
    length = [] if any(o.startswith("steps=") for o in overrides) else ["epochs=1"]
    return load_recipe("cifar10-resnet9-plain", ["classifier.widths=[8,12]", *settings, *length, *overrides])


def one_step(training: ClassifierTraining, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a training step, the images that the network saw last in it, and its logits."""
    training.log = Mock()  # type: ignore[method-assign]
    seen: list[tuple[Tensor, Tensor]] = []
    training.network.train().register_forward_hook(lambda _, x, logits: seen.append((x[0], logits)))
    loss = training.training_step((images, labels), 0)
    return loss, seen[-1][0].detach(), seen[-1][1]


@pytest.mark.parametrize("adversarial", ["fgsm", "bim"])
def test_half_of_a_batch_is_attacked_within_the_budget_and_keeps_its_labels(
    adversarial: str, tmp_path: Path, sample: ImageSet
) -> None:
    recipe = classifier_recipe(
        f"classifier.adversarial={adversarial}", "classifier.epsilon=6", "classifier.cutout=0"
    )
    images, labels = sample.images(range(8)), sample.labels(range(8))
    loss, trained_on, logits = one_step(
        ClassifierTraining(recipe, sample, sample, cache=tmp_path), images, labels
    )
    attacked, clean = trained_on.split(4)
    assert torch.equal(clean, images[1::2])
    moved = (attacked - images[::2]).abs()
    assert float(moved.max()) <= 6 / 255 + 1e-6
    assert float(moved.mean()) > 1 / 255
    torch.testing.assert_close(loss, functional.cross_entropy(logits, torch.cat([labels[::2], labels[1::2]])))


def test_pgd_attacks_the_whole_batch_within_the_budget(tmp_path: Path, sample: ImageSet) -> None:
    recipe = classifier_recipe(
        "classifier.adversarial=pgd", "classifier.epsilon=6", "classifier.cutout=0", "classifier.pgd_steps=3"
    )
    images, labels = sample.images(range(8)), sample.labels(range(8))
    loss, trained_on, logits = one_step(
        ClassifierTraining(recipe, sample, sample, cache=tmp_path), images, labels
    )
    moved = (trained_on - images).abs().flatten(1)
    assert float(moved.max()) <= 6 / 255 + 1e-6
    assert float(moved.mean(1).min()) > 1 / 255
    torch.testing.assert_close(loss, functional.cross_entropy(logits, labels))


def test_adversarial_training_is_validated_under_attack(tmp_path: Path) -> None:
    facts = start(classifier_recipe("classifier.adversarial=pgd", "steps=2"), output=tmp_path, device="cpu")
    assert facts is not None
    assert 0 <= facts.scores["validation_robust_accuracy"] <= 1
    assert (facts.scores["images"], facts.scores["robust_images"]) == (20, 20)


def test_the_mean_of_the_weights_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    kept = {}
    for average in ("0", "0.5", "0.999"):
        recipe = classifier_recipe(f"classifier.average={average}", "steps=4")
        start(recipe, output=tmp_path / average, device="cpu")
        kept[average] = load_file(tmp_path / average / "weights.safetensors")["head.weight"].float()
    last = kept["0"]
    assert (kept["0.5"] - last).norm() < (kept["0.999"] - last).norm()
    assert not torch.equal(kept["0.5"], last)


@pytest.mark.parametrize("adversarial", ["none", "pgd"])
def test_a_resumed_classifier_with_a_mean_ends_with_the_weights_of_an_unbroken_one(
    adversarial: str, tmp_path: Path
) -> None:
    recipe = classifier_recipe(
        "classifier.average=0.9", f"classifier.adversarial={adversarial}", "steps=4", "batch=20"
    )
    whole = start(recipe, output=tmp_path / "whole", device="cpu")
    assert start(recipe, output=tmp_path / "broken", device="cpu", stop_after=1) is None
    resumed = start(recipe, output=tmp_path / "broken", device="cpu", resume=True)
    assert whole is not None
    assert whole == resumed


def test_training_images_that_do_not_fit_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"classifier.shift is 40; images are 32 pixels wide"):
        start(classifier_recipe("classifier.shift=40"), output=tmp_path, device="cpu")
    unlabelled = Dataset.from_dict(
        {"image": [Image.new("RGB", (32, 32))] * 4, "label": [0, 1, -1, 2]},
        features=Features({"image": ImageFeature(), "label": Value("int64")}),
    )
    unlabelled.to_parquet(tmp_path / "data.parquet")
    with pytest.raises(RequestError, match="a label is -1; they start at 0"):
        start(
            classifier_recipe(f"data={tmp_path}/data.parquet", "batch=2", "classifier.shift=0"),
            output=tmp_path / "run", device="cpu",
        )  # fmt: skip


def test_a_classifier_goes_on_from_trained_weights(tmp_path: Path) -> None:
    recipe = load_recipe(
        "cifar10-resnet9-smooth",
        ["data=sample:cifar10", "steps=1", "interval=1", "batch=50", "validation_images=100"],
    )
    facts = start(recipe, output=tmp_path / "run", device="cpu")
    assert facts is not None
    assert facts.scores["validation_accuracy"] > 0.7
    other = load_recipe(
        "cifar10-resnet9-smooth", ["data=sample:cifar10", "classifier.start=fashion-mnist-resnet9"]
    )
    with pytest.raises(RequestError, match="'fashion-mnist-resnet9' do not fit their architecture"):
        start(other, output=tmp_path / "misfit", device="cpu")


def test_a_classifier_is_trained_on_purified_images_which_resuming_finds_again(tmp_path: Path) -> None:
    recipe = classifier_recipe("classifier.purifier=jpeg:quality=30")
    whole = start(recipe, output=tmp_path / "whole", device="cpu")
    assert start(recipe, output=tmp_path / "broken", device="cpu", stop_after=1) is None
    (file,) = (tmp_path / "broken").glob("purified-train-*.safetensors")
    kept = load_file(file)["pixels"]
    assert kept.shape == (980, 3, 32, 32)  # the others are held out for validation
    resumed = start(recipe, output=tmp_path / "broken", device="cpu", resume=True)
    assert whole is not None
    assert whole == resumed


def test_interrupted_purification_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comdefend.training.classifier.KEPT_EVERY", 300)
    purify, seen = JPEG.purify, list[int]()

    def counted(self: JPEG, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if sum(seen) == 900:
            raise RuntimeError("the power went out")
        return purify(self, images)

    monkeypatch.setattr(JPEG, "purify", counted)
    recipe = classifier_recipe("classifier.purifier=jpeg:quality=30")
    with pytest.raises(RuntimeError, match="power"):
        start(recipe, output=tmp_path / "run", device="cpu")
    seen.clear()
    resumed = start(recipe, output=tmp_path / "run", device="cpu")
    assert seen == [300, 80, 20]  # what was missing, and the images of validation
    whole = start(recipe, output=tmp_path / "whole", device="cpu")
    assert resumed == whole
    assert not list((tmp_path / "run").glob("*.begun"))


@pytest.mark.parametrize("data", ["sample:cifar10", "sample:fashion-mnist"])
def test_a_pixelcnn_learns_to_code_images_in_fewer_bits(data: str, tmp_path: Path) -> None:
    settings = [f"data={data}", "pixelcnn.features=8", "pixelcnn.layers=1", "batch=8", "validation_images=8"]
    found = [
        start(
            load_recipe("cifar10-pixelcnn", [*settings, f"steps={steps}", "interval=40", "warmup=0"]),
            output=tmp_path / str(steps),
            device="cpu",
        )
        for steps in (1, 40)
    ]
    bits = [facts.scores["validation_bits_per_dimension"] for facts in found if facts]
    assert bits[1] < bits[0] - 0.5
    weights = str(tmp_path / "40" / "weights.safetensors")
    channels = 1 if "fashion" in data else 3
    purifier = comdefend.load(f"pixeldefend:weights={weights},epsilon=4", channels=channels)
    images = torch.rand(1, channels, 6, 6).mul(255).round() / 255
    assert 0 < (purifier(images) - images).abs().max() <= 4 / 255 + 1e-6


def test_a_purifier_of_blocks_is_guided_by_classifiers(tmp_path: Path) -> None:
    options = [
        "data=sample:cifar10", "purifier.block=2", "purifier.bits=12", "purifier.com_widths=[8]",
        "purifier.rec_widths=[8]", "purifier.noise=12",
        "purifier.guides=[cifar10-resnet9-plain,cifar10-resnet9-smooth]", "purifier.guidance=1",
        "purifier.matching=1", "purifier.guide_noise=9", "crop=null", "batch=20",
        "steps=30", "interval=30", "validation_images=20", "learning_rate=0.02", "warmup=0.1",
    ]  # fmt: skip
    facts = start(load_recipe("cifar10", options), output=tmp_path, device="cpu")
    assert facts is not None
    assert (facts.architecture["block"], facts.architecture["com_widths"]) == (2, (8,))
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["guidance"]]
    assert all(float(row[part]) > 0 for row in rows for part in ("guidance", "matching"))
    purifier = load_comdefend(str(tmp_path / "weights.safetensors"))
    assert purifier(torch.rand(1, 3, 7, 5)).shape == (1, 3, 7, 5)


def test_guides_must_take_what_the_purifier_makes(tmp_path: Path) -> None:
    colour = ["purifier.guides=[cifar10-resnet9-plain]", "purifier.image_channels=1", "crop=null"]
    with pytest.raises(RequestError, match="'cifar10-resnet9-plain' does not take images of 1x32x32"):
        start(purifier_recipe(*colour), output=tmp_path / "run", device="cpu")


def test_guides_are_refused_where_they_would_see_crops() -> None:
    with pytest.raises(RequestError, match="guides judge whole images; leave out crop"):
        purifier_recipe("purifier.guides=[cifar10-resnet9-plain]")


@pytest.mark.parametrize("octaves", [0, 1, 4])
def test_noise_moves_every_value_as_far_as_that_of_its_image(octaves: int) -> None:
    images, generator = torch.full((20, 3, 4, 5), 0.5), torch.Generator().manual_seed(0)
    moved = (with_noise(images, 8 / 255, octaves=octaves, generator=generator) - images).abs()
    sizes = moved.amax(dim=(1, 2, 3))
    torch.testing.assert_close(moved, sizes[:, None, None, None].expand_as(moved))
    assert 6 / 255 < sizes.max() <= 8 / 255
    assert sizes.min() < 2 / 255


def test_noise_of_octaves_stays_finite_on_the_smallest_images() -> None:
    moved = with_noise(torch.zeros(1, 1, 2, 3), 0.1, octaves=8, generator=torch.Generator().manual_seed(0))
    assert moved.isfinite().all()
    assert moved.max() <= 0.1


def test_a_purifier_is_trained_under_the_noise_of_its_recipe(tmp_path: Path) -> None:
    def trained(octaves: int) -> Tensor:
        settings = ("purifier.noise=30", f"purifier.noise_octaves={octaves}", "steps=2", "interval=2")
        start(purifier_recipe(*settings), output=tmp_path / str(octaves), device="cpu")
        _, weights = zoo.read(str(tmp_path / str(octaves) / "weights.safetensors"), kind="purifier")
        return torch.cat([tensor.flatten() for _, tensor in sorted(weights.items())])

    assert not torch.equal(trained(0), trained(1))


def test_noise_of_octaves_moves_neighbours_and_colours_the_same_way() -> None:
    def alike(octaves: int) -> tuple[float, float]:
        images, generator = torch.full((50, 3, 32, 32), 0.5), torch.Generator().manual_seed(0)
        up = with_noise(images, 0.1, octaves=octaves, generator=generator) > 0.5
        neighbours = (up[..., 1:] == up[..., :-1]).float().mean()
        return float(neighbours), float((up[:, 0] == up[:, 1]).float().mean())

    white, coarser, coarsest = alike(0), alike(1), alike(3)
    assert white == pytest.approx((0.5, 0.5), abs=0.02)
    assert white[0] + 0.03 < coarser[0] < coarsest[0]
    assert coarser[1] > 0.6


def test_a_denoiser_is_guided_by_a_classifier(tmp_path: Path) -> None:
    recipe = load_recipe(
        "cifar10-hgd",
        [
            "data=sample:cifar10", "denoiser.widths=[4,6]", "denoiser.classifier=cifar10-resnet9-plain",
            "steps=8", "interval=8", "batch=25", "validation_images=20",
        ],
    )  # fmt: skip
    facts = start(recipe, output=tmp_path, device="cpu")
    assert facts is not None
    assert facts.architecture == {"image_channels": 3, "widths": (4, 6)}
    images = torch.rand(1, 3, 9, 7)
    purifier = comdefend.load(f"hgd:weights={tmp_path}/weights.safetensors")
    assert not torch.equal(purifier(images), images)


def test_a_denoiser_learns_from_crops_of_photographs_of_many_sizes(tmp_path: Path) -> None:
    maker = tmp_path / "mine.py"
    maker.write_text(
        "import torch\n"
        "def make():\n"
        "    return torch.nn.Sequential(\n"
        "        torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 2)\n"
        "    )\n"
    )
    for index in range(16):
        file = tmp_path / "photos" / f"kind{index % 2}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (30 + index, 40 - index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    settings = [
        f"data={tmp_path / 'photos'}", f"denoiser.classifier={maker}:make", "denoiser.widths=[4,6]",
        "crop=24", "batch=2", "steps=2", "validation_images=2",
    ]  # fmt: skip
    facts = start(load_recipe("imagenet-hgd", settings), output=tmp_path / "run", device="cpu")
    assert facts is not None
    assert facts.scores["images"] >= 1


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
