"""Training a classifier behind a purifier, and both together."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from comdefend import zoo
from comdefend.classifiers import load_classifier
from comdefend.data import ImageSet
from comdefend.errors import RequestError
from comdefend.model import ComDefend, ComDefendConfig, initialise
from comdefend.purifiers import load_comdefend, load_purifier
from comdefend.training import Recipe, load_recipe, start
from comdefend.training.pair import PairTraining


@pytest.fixture
def purifier(tmp_path: Path) -> Path:
    """Weights of a small purifier."""
    config = ComDefendConfig(bits=8, block=2, com_widths=(8,), rec_widths=(8,))
    model = ComDefend(config)
    initialise(model, seed=0)
    path = tmp_path / "small.safetensors"
    zoo.write(model, zoo.Facts("small", "purifier", config.to_dict(), "cifar10", "fresh"), path)
    return path


def recipe(tmp_path: Path, *overrides: str) -> Recipe:
    file = tmp_path / "duo-resnet9.yaml"
    file.write_text("extends: cifar10-resnet9-plain\ntrains: pair\n")
    settings = [
        "data=sample:cifar10", "steps=4", "interval=2", "batch=20", "validation_images=20",
        "classifier.widths=[8,12]", "classifier.shift=1", "pair.attack=pgd",
    ]  # fmt: skip
    return load_recipe(str(file), [*settings, *overrides])


def test_a_classifier_is_trained_behind_a_purifier_that_stays(tmp_path: Path, purifier: Path) -> None:
    common = [f"pair.purifier=comdefend:weights={purifier}", "pair.noise=8"]
    found = {}
    for knowledge in ("gray-box", "white-box"):
        run = recipe(tmp_path, *common, f"pair.knowledge={knowledge}", "pair.share=0.5")
        found[knowledge] = start(run, output=tmp_path / knowledge, device="cpu")
        assert not (tmp_path / knowledge / "purifier.safetensors").exists()
    gray, white = found["gray-box"], found["white-box"]
    assert gray is not None
    assert white is not None
    assert (gray.name, gray.kind) == ("duo-resnet9", "classifier")
    assert 0 <= gray.scores["validation_robust_accuracy"] <= 1
    assert (gray.scores["images"], gray.scores["robust_images"]) == (20, 20)
    assert gray.sha256 != white.sha256
    classifier = load_classifier(str(tmp_path / "gray-box" / "weights.safetensors"))
    assert classifier(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("bare", [0.0, 0.25, 0.5])
def test_a_share_of_the_batch_goes_past_the_purifier(
    bare: float, tmp_path: Path, purifier: Path, sample: ImageSet
) -> None:
    run = recipe(
        tmp_path, f"pair.purifier=comdefend:weights={purifier}", f"pair.bare={bare}", "pair.attack=none",
        "classifier.cutout=0",
    )  # fmt: skip
    training = PairTraining(run, sample, sample)
    training.log_dict = Mock()  # type: ignore[method-assign]
    seen: list[Tensor] = []
    training.network.classifier.register_forward_hook(lambda _, x, __: seen.append(x[0]))
    images = sample.images(range(8))
    training.training_step((images, sample.labels(range(8))), 0)
    past = [torch.equal(given, image) for given, image in zip(seen[-1], images, strict=True)]
    assert sum(past) == 8 * bare
    assert (
        past != sorted(past, reverse=True) or not bare
    )  # spread over the batch, of which a part is attacked


@pytest.mark.parametrize("name", ["duo", "duo-resnet9"])
def test_both_are_trained_through_the_hard_code(name: str, tmp_path: Path, purifier: Path) -> None:
    settings = f"name={name}", f"pair.purifier=comdefend:weights={purifier}"
    start(
        recipe(tmp_path, *settings, "pair.tuned=true", "pair.fidelity=10"),
        output=tmp_path / "run",
        device="cpu",
    )
    facts = json.loads((tmp_path / "run" / "purifier.json").read_text())
    assert (facts["name"], facts["kind"], facts["recipe"]["pair"]["tuned"]) == ("duo", "purifier", True)
    behind, _ = zoo.read(str(tmp_path / "run" / "weights.safetensors"), kind="classifier")
    assert behind.name == "duo-resnet9"
    before, after = (load_file(p) for p in (purifier, tmp_path / "run" / "purifier.safetensors"))
    for key in before:
        assert not torch.equal(before[key], after[key]), key
    images = torch.rand(1, 3, 9, 7)
    assert load_comdefend(str(tmp_path / "run" / "purifier.safetensors"))(images).shape == images.shape


def test_noise_on_the_code_is_trained_with_and_stays_with_the_weights(tmp_path: Path, purifier: Path) -> None:
    kept = []
    for noise in (0, 9):
        reference = f"comdefend:weights={purifier},noise={noise}"
        run = recipe(tmp_path, f"pair.purifier={reference}", "pair.tuned=true")
        start(run, output=tmp_path / str(noise), device="cpu")
        kept.append(load_comdefend(str(tmp_path / str(noise) / "purifier.safetensors")))
    assert [(p.noise, p.stochastic) for p in kept] == [(0, False), (9, True)]
    still = load_purifier(f"comdefend:weights={tmp_path / '9' / 'purifier.safetensors'},noise=0")
    assert not still.stochastic
    weights = [next(p.model.parameters()) for p in kept]
    assert not torch.equal(*weights)


def test_attacks_in_other_modes_are_other_attacks(tmp_path: Path, purifier: Path) -> None:
    reference = f"pair.purifier=comdefend:weights={purifier}"
    kept = []
    for modes in ("[]", "[straight-through]", "[straight-through,tempered-2]"):
        run = recipe(tmp_path, reference, "pair.tuned=true", f"pair.attack_modes={modes}")
        start(run, output=tmp_path / modes, device="cpu")
        kept.append(load_file(tmp_path / modes / "weights.safetensors")["head.weight"])
    assert torch.equal(kept[0], kept[1])  # the mode of the training, named or not
    assert not torch.equal(kept[0], kept[2])
    blind = recipe(tmp_path, reference, "pair.attack_modes=[autograd]")
    with pytest.raises(RequestError, match=r"attack_modes has 'autograd', which gives an attack no gradient"):
        start(blind, output=tmp_path / "blind", device="cpu")


@pytest.mark.parametrize(("noise", "taught"), [("", 0), (",noise=9", 0), (",noise=9", 0.5)])
def test_a_resumed_pair_ends_with_the_weights_of_an_unbroken_one(
    noise: str, taught: float, tmp_path: Path, purifier: Path
) -> None:
    run = recipe(
        tmp_path, f"pair.purifier=comdefend:weights={purifier}{noise}", "pair.tuned=true",
        "pair.average=0.9", f"pair.mean_teacher={taught}",
    )  # fmt: skip
    whole = start(run, output=tmp_path / "whole", device="cpu")
    assert start(run, output=tmp_path / "broken", device="cpu", stop_after=1) is None
    resumed = start(run, output=tmp_path / "broken", device="cpu", resume=True)
    assert whole is not None
    assert whole == resumed
    both = [(tmp_path / run / "purifier.safetensors").read_bytes() for run in ("whole", "broken")]
    assert both[0] == both[1]


def test_what_is_attacked_and_which_way_decides_what_is_learnt(tmp_path: Path) -> None:
    kept = []
    for number, settings in enumerate(
        ([], ["pair.goal=random"], ["pair.goal=random", "pair.sources=[cifar10-resnet9-plain]"])
    ):
        facts = start(recipe(tmp_path, *settings), output=tmp_path / str(number), device="cpu")
        assert facts is not None
        kept.append(facts.sha256)
        # What was attacked beside the classifier is no part of what is kept.
        assert load_classifier(str(tmp_path / str(number) / "weights.safetensors")) is not None
    assert len(set(kept)) == 3


def test_trades_asks_clean_images_for_the_label_and_attacked_ones_for_the_same_answers(
    tmp_path: Path, purifier: Path, sample: ImageSet
) -> None:
    run = recipe(
        tmp_path, f"pair.purifier=comdefend:weights={purifier}", "pair.trades=3", "classifier.cutout=0"
    )
    training = PairTraining(run, sample, sample)
    logged = training.log_dict = Mock()  # type: ignore[method-assign]
    answers: list[Tensor] = []
    training.network.classifier.register_forward_hook(lambda _, __, given: answers.append(given.detach()))
    labels = sample.labels(range(8))
    training.training_step((sample.images(range(8)), labels), 0)
    attacked, clean = answers[-1].softmax(1).split(8)
    parts = logged.call_args.args[0]
    assert parts["cross_entropy"].item() == pytest.approx(
        -clean[range(8), labels].log().mean().item(), rel=1e-4
    )
    apart = (clean * (clean / attacked).log()).sum(1).mean().item()
    assert parts["divergence"].item() == pytest.approx(apart, rel=1e-4)
    assert apart > 0
    expected = parts["cross_entropy"] + 3 * parts["divergence"]
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["pair.share=0.5"], "trades is 2.0; .* and 0 unless all are attacked"),
        (["pair.attack=none"], "trades is 2.0; .* and 0 unless all are attacked"),
        (["pair.bare=0.5", "pair.purifier=comdefend"], "bare is 0.5; with pair.trades it must be 0"),
        (["pair.mean_teacher=0.5", "pair.average=0.9"], "mean_teacher is 0.5; .* with pair.trades"),
    ],
)
def test_trades_attacks_all_images(tmp_path: Path, others: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        recipe(tmp_path, "pair.trades=2", *others)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_mean_teacher_is_asked_beside_the_label(
    share: float, tmp_path: Path, purifier: Path, sample: ImageSet
) -> None:
    run = recipe(
        tmp_path, f"pair.purifier=comdefend:weights={purifier}", f"pair.mean_teacher={share}",
        "pair.average=0.9", "classifier.cutout=0",
    )  # fmt: skip
    training = PairTraining(run, sample, sample)
    logged = training.log_dict = Mock()  # type: ignore[method-assign]
    head = training.judged.classifier.get_submodule("head")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():  # a teacher of its own mind, to tell it from the network
        head.weight[3] += 1
    answers: list[Tensor] = []
    training.network.classifier.register_forward_hook(lambda _, __, given: answers.append(given.detach()))
    images, labels = sample.images(range(8)), sample.labels(range(8))
    before = {key: value.clone() for key, value in training.judged.state_dict().items()}
    training.training_step((images, labels), 0)
    for key, value in training.judged.state_dict().items():  # it answers, and learns nothing
        assert torch.equal(before[key], value), key
    with torch.no_grad():
        asked = training.judged.eval()(images).softmax(1)
    wanted = share * asked + (1 - share) * functional.one_hot(labels, 10)
    expected = -(wanted * answers[-1].log_softmax(1)).sum(1).mean()
    assert logged.call_args.args[0]["loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_goal_without_an_attack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"pair\.sources and pair\.goal need a pair\.attack"):
        recipe(tmp_path, "pair.attack=none", "pair.goal=random")


def test_the_mean_of_the_weights_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    kept = {}
    for average in ("0", "0.5", "0.999"):
        run = recipe(tmp_path, f"pair.average={average}")
        start(run, output=tmp_path / average, device="cpu")
        kept[average] = load_file(tmp_path / average / "weights.safetensors")["head.weight"].float()
    last = kept["0"]
    assert (kept["0.5"] - last).norm() < (kept["0.999"] - last).norm()
    assert not torch.equal(kept["0.5"], last)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pair.purifier=jpeg", "pair.purifier is 'jpeg'; it must be none or a comdefend"),
        ("pair.purifier=comdefend:order=bgr", "it must be none or a comdefend of float32, of order rgb"),
        ("pair.purifier=comdefend:halo=8", "with no halo below its networks' reach"),
        ("classifier.purifier=jpeg", "a pair has its own purifier and attack"),
        ("trains=classifier", "settings of a pair need trains: pair"),
        ("pair.tuned=true", "pair.tuned needs a pair.purifier"),
        ("pair.share=0", "pair.share is 0.0; it must lie above 0"),
        ("pair.bare=0.5", "pair.bare is 0.5; .* and 0 without a purifier"),
        ("pair.trades=-1", "pair.trades is -1.0; it must be from 0 up, finite"),
        ("pair.mean_teacher=0.5", "pair.mean_teacher is 0.5; .* and 0 without pair.average"),
        ("pair.average=1", "pair.average is 1.0; it must be from 0 to below 1"),
        ("pair.fidelity=1", "and 0 without pair.tuned"),
        ("pair.steps=0", "pair.steps is 0; it must be at least 1"),
        ("pair.sources=[fashion-mnist-resnet9]", "fashion-mnist-resnet9"),
        ("pair.epsilon=0", "pair.epsilon is 0.0; it must lie above 0"),
        ("pair.knowledge=gray-box", "pair.attack_modes need attack pgd and .*, and these are pgd and gray"),
        ("pair.steps=1", "pair.attack_modes need a pair.purifier"),
    ],
)
def test_what_a_pair_cannot_be_trained_with_is_refused(tmp_path: Path, override: str, message: str) -> None:
    modes = ["pair.attack_modes=[surrogate]"] if "attack_modes" in message else []
    with pytest.raises(RequestError, match=message):
        start(recipe(tmp_path, override, *modes), output=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("mode", "tuned"), [("guess", False), ("autograd", False), ("autograd", True), ("identity", True)]
)
def test_a_mode_that_passes_no_gradient_is_refused(
    tmp_path: Path, purifier: Path, mode: str, tuned: bool
) -> None:
    reference = f"pair.purifier=comdefend:weights={purifier}"
    run = recipe(tmp_path, reference, f"pair.mode={mode}", f"pair.tuned={tuned}")
    with pytest.raises(RequestError, match=rf"pair\.mode is '{mode}', which passes no gradient"):
        start(run, output=tmp_path / "run", device="cpu")
