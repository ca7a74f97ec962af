"""Every attack under every protocol it knows, on a tiny network."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from comdefend.attacks import (
    APGD,
    BIM,
    MIFGSM,
    PGD,
    PROTOCOLS,
    Attack,
    CarliniWagner,
    Goal,
    Smallest,
    Square,
    SquareOfMeans,
    attacks,
    distance,
    find_attack,
    fooled,
)
from comdefend.attacks.base import check_adversarial
from comdefend.errors import RequestError, WorkError
from tests.conftest import TinyClassifier

EPSILON = 0.1
ATTACKS = [
    found
    for name in attacks for protocol in PROTOCOLS
    if (found := find_attack(name, protocol)) is not None
]  # fmt: skip
CASES = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.name}-{a.norm}-{a.protocol}")
MINIMAL = pytest.mark.parametrize(
    "attack", [a for a in ATTACKS if a.protocol == "minimal"], ids=lambda a: f"{a.name}-{a.norm}"
)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def labels(tiny_classifier: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        predicted: Tensor = tiny_classifier(images).argmax(1)
    # One image is wrong from the start.
    predicted[0] = (predicted[0] + 1) % 5
    return predicted


@CASES
def test_it_fools_the_network_within_its_budget(
    attack: Attack, tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    epsilon = EPSILON if attack.norm == "linf" else None if attack.protocol == "minimal" else 1.5
    adversarial = attack(tiny_classifier, images, labels, epsilon=epsilon)
    assert adversarial.shape == images.shape
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    if epsilon is not None:
        assert distance(images, adversarial, attack.norm).max() <= epsilon + 1e-5
    assert fooled(tiny_classifier, adversarial, labels).float().mean() > 0.7


@CASES
def test_it_repeats_itself_under_one_seed(
    attack: Attack, tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    def run() -> Tensor:
        torch.manual_seed(7)
        return attack(tiny_classifier, images, labels, epsilon=EPSILON)

    assert torch.equal(run(), run())


@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "mi-fgsm"])
def test_a_fixed_attack_spends_what_a_minimal_one_saves(
    name: str, tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    spent: dict[str, Tensor] = {}
    for protocol in PROTOCOLS:
        attack = find_attack(name, protocol)
        assert attack is not None
        adversarial = attack(tiny_classifier, images, labels, epsilon=EPSILON)
        spent[protocol] = distance(images, adversarial, "linf")
    assert torch.allclose(spent["fixed"], torch.tensor(EPSILON), atol=0.02)
    assert float(spent["minimal"].mean()) < 0.8 * EPSILON


@MINIMAL
def test_a_minimal_attack_leaves_alone_what_is_wrong_already(
    attack: Attack, tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    adversarial = attack(tiny_classifier, images, labels, epsilon=EPSILON)
    assert torch.equal(adversarial[0], images[0])


@MINIMAL
def test_a_minimal_attack_gives_back_what_it_cannot_break(
    attack: Attack, tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    adversarial = attack(tiny_classifier, images, labels, epsilon=1e-6)
    assert torch.equal(adversarial, images)


@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "mi-fgsm", "pgd-l2"])
def test_the_smallest_budget_is_found_to_its_precision(
    name: str, tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    attack = find_attack(name, "minimal")
    assert isinstance(attack, Smallest)
    torch.manual_seed(0)
    adversarial = attack(tiny_classifier, images, labels, epsilon=None)
    spent = distance(images, adversarial, attack.norm)
    moved = spent > 0
    assert moved.sum() >= len(images) - 1
    # A little less than was found does not do, with the attack as it is.
    less = (spent * (1 - 1 / 8))[:, None, None, None].clamp_min(1e-6)
    shorter = attack.attack.run(tiny_classifier, images, Goal(labels), less)
    assert fooled(tiny_classifier, shorter, labels)[moved].float().mean() < 0.5


@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "mi-fgsm"])
def test_a_larger_maximum_never_breaks_fewer_and_finds_the_same(
    name: str, tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    attack = find_attack(name, "minimal")
    assert attack is not None
    found = []
    for epsilon in (2 / 255, 5 / 255, 8 / 255, 16 / 255, 40 / 255):
        torch.manual_seed(0)
        found.append(attack(tiny_classifier, images, labels, epsilon=epsilon))
    for smaller, larger in pairwise(found):
        broken = fooled(tiny_classifier, smaller, labels)
        assert torch.equal(smaller[broken], larger[broken])


@CASES
def test_a_targeted_attack_reaches_its_class(
    attack: Attack, tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    with torch.no_grad():
        nearest = tiny_classifier(images).topk(2).indices
    targets = torch.where(nearest[:, 0] == labels, nearest[:, 1], nearest[:, 0])
    budget = 0.2 if attack.norm == "linf" else None
    if not attack.targeted:
        with pytest.raises(RequestError, match="no targeted form"):
            attack(tiny_classifier, images, labels, epsilon=budget, targets=targets)
        return
    adversarial = attack(tiny_classifier, images, labels, epsilon=budget, targets=targets)
    with torch.no_grad():
        reached = tiny_classifier(adversarial).argmax(1) == targets
    assert reached.float().mean() > 0.6
    with pytest.raises(RequestError, match="none of them its label"):
        attack(tiny_classifier, images, labels, epsilon=budget, targets=labels)


def test_restarts_never_break_fewer(tiny_classifier: nn.Module, images: Tensor, labels: Tensor) -> None:
    def broken(restarts: int) -> int:
        torch.manual_seed(0)
        attack = PGD(steps=2, restarts=restarts)
        return int(
            fooled(tiny_classifier, attack(tiny_classifier, images, labels, epsilon=0.02), labels).sum()
        )

    assert broken(4) >= broken(1)


def test_cw_respects_a_budget_where_it_has_one(
    tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    free = distance(images, CarliniWagner()(tiny_classifier, images, labels, epsilon=None), "l2")
    budget = float(free[free > 0].median())
    tight = distance(images, CarliniWagner()(tiny_classifier, images, labels, epsilon=budget), "l2")
    assert tight.max() <= budget + 1e-5
    assert (tight > 0).sum() < (free > 0).sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x + 0.2, "budget|range"),
        (lambda x: x - 5, "range"),
        (lambda x: x * float("nan"), "NaN"),
        (lambda x: x[:, :, 1:], "another shape"),
    ],
)
def test_an_attack_that_breaks_its_promise_is_caught(change, message: str) -> None:  # type: ignore[no-untyped-def]
    images = torch.rand(2, 3, 4, 4)
    with pytest.raises(WorkError, match=message):
        check_adversarial(images, change(images), epsilon=0.1, norm="linf", attack="test")


def test_logits_a_thousand_times_as_large_are_attacked_as_well(
    tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """Their softmax is one exactly, and the gradient of its logarithm zero."""

    class Loud(nn.Module):
        def forward(self, at: Tensor) -> Tensor:
            return 1e4 * tiny_classifier(at)  # type: ignore[no-any-return]

    for name in ("fgsm", "bim", "pgd", "mi-fgsm"):
        attack = find_attack(name, "fixed")
        assert attack is not None
        loud, usual = (attack(m, images, labels, epsilon=EPSILON) for m in (Loud(), tiny_classifier))
        ours, theirs = (fooled(tiny_classifier, made, labels).sum() for made in (loud, usual))
        assert ours >= theirs - 1, name


def test_unknown_attacks_name_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean fgsm"):
        find_attack("fgms", "fixed")
    assert find_attack("deepfool", "fixed") is None
    assert list(attacks) == [
        "apgd", "autoattack", "autoattack-l2", "bim", "cw", "deepfool", "deepfool-l2", "fgsm",
        "hopskipjump", "mi-fgsm", "pgd", "pgd-l2", "square",
    ]  # fmt: skip


def test_settings_are_part_of_a_reference() -> None:
    attack = find_attack("bim:steps=50,step=0.05", "fixed")
    assert attack == BIM(steps=50, step=0.05, reference="bim:steps=50,step=0.05")
    assert attack.title == "bim:steps=50,step=0.05"
    assert attack.settings() == {"steps": 50, "step": 0.05, "early": False}
    assert (BIM().title, find_attack("cw:steps=9", "fixed")) == ("bim", None)
    smallest = find_attack("bim:steps=50", "minimal")
    assert smallest is not None
    assert (smallest.name, smallest.title, smallest.protocol) == ("bim", "bim:steps=50", "minimal")
    assert smallest.settings()["steps"] == 50
    with pytest.raises(RequestError, match="attack fgsm is bounded in linf, not l2"):
        attacks["fgsm"](norm="l2")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("bmi:steps=5", "did you mean bim"),
        ("bim:stops=5", "no setting .stops.; it takes steps, step"),
        ("fgsm:steps=5", "it takes none"),
        ("bim:steps=5.5", "steps is 5.5; it must be a whole number above 0"),
        ("bim:step=0", "step is 0; it must be a number above 0"),
        ("bim:step=inf", "step is inf"),
        ("mi-fgsm:decay=-1", "decay is -1; it must be a number of at least 0"),
        ("bim:early=1", "no setting 'early'"),
        ("pgd:confirmations=3", "no setting 'confirmations'"),
        ("autoattack:draws=5", "no setting 'draws'; it takes none"),
        ("bim:steps", "'steps' must have the form key=value"),
    ],
)
def test_impossible_settings_are_refused(reference: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        find_attack(reference, "fixed")


def test_settings_that_may_be_nothing_may_be_nothing() -> None:
    assert find_attack("mi-fgsm:decay=0", "fixed") == replace(MIFGSM(), decay=0, reference="mi-fgsm:decay=0")
    assert find_attack("cw:confidence=0", "minimal") is not None
    with pytest.raises(RequestError, match="candidates is 1; it must be a whole number of at least 2"):
        find_attack("deepfool:candidates=1", "minimal")


@CASES
def test_a_model_in_training_is_left_as_it_was(attack: Attack, images: Tensor) -> None:
    """Attacked in evaluation mode: what a batch of adversarial images is like must not stay in it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 5))
    model.train()
    model[3].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attack(model, images, torch.zeros(len(images), dtype=torch.int64), epsilon=EPSILON)
    assert [module.training for module in model] == [True, True, True, False]
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@CASES
def test_no_images_are_no_work(attack: Attack, tiny_classifier: nn.Module, images: Tensor) -> None:
    none = attack(tiny_classifier, images[:0], torch.zeros(0, dtype=torch.int64), epsilon=EPSILON)
    assert none.shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 8}, r"a fraction above 0 and at most 1 \(8/255, not 8\)"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "12 images need as many labels"),
        ({"labels": torch.full((12,), -1)}, "whole numbers from 0 up"),
        ({"images": torch.full((12, 3, 8, 8), torch.nan)}, "NaN"),
        ({"images": torch.full((12, 3, 8, 8), 2.0)}, "needed: if they are normalised"),
    ],
)
@CASES
def test_input_that_is_none_is_refused(
    attack: Attack, change: dict[str, object], message: str, tiny_classifier: nn.Module, images: Tensor
) -> None:
    if change.get("epsilon") == 8 and attack.norm == "l2":
        return  # a length of eight is a budget
    given: dict[str, object] = {
        "images": images,
        "labels": torch.zeros(12, dtype=torch.int64),
        "epsilon": 0.1,
    }
    with pytest.raises(RequestError, match=message):
        attack(tiny_classifier, **{**given, **change})  # type: ignore[arg-type]


def test_labels_that_change_between_answers_do_not_stop_a_hard_label_attack(
    tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """Foolbox asks again for the places that it starts from, and refuses them where one is not wrong."""

    class Fickle(nn.Module):
        def forward(self, at: Tensor) -> Tensor:
            logits: Tensor = tiny_classifier(at)
            return torch.where(torch.rand(len(at), 1) < 0.15, logits.roll(1, dims=1), logits)

    attack = find_attack("hopskipjump:steps=2,gradient_queries=20", "minimal")
    assert attack is not None
    torch.manual_seed(0)
    adversarial = attack(Fickle(), images, labels, epsilon=1.0)
    assert not torch.equal(adversarial, images)


def test_two_classes_are_enough_for_apgd() -> None:
    images = torch.rand(4, 3, 16, 16)
    made = APGD(steps=2)(TinyClassifier(classes=2), images, torch.tensor([0, 1, 0, 1]), epsilon=0.1)
    assert float((made - images).abs().max()) <= 0.1 + 1e-5


@pytest.mark.parametrize("scale", [1, 1e4])
def test_square_searches_on_where_answers_are_drawn(scale: float) -> None:
    """A model that is wrong in a third of the draws of an image, and in more where it is brighter."""
    seen: list[int] = []

    class Drawn(nn.Module):
        def forward(self, at: Tensor) -> Tensor:
            seen.append(len(at))
            brighter = (at.mean((1, 2, 3)) - 0.5) / 0.1
            wrong = (torch.rand(len(at)) < 0.33 + 0.33 * brighter).float()
            return scale * torch.stack([1 - wrong, wrong, *[torch.zeros(len(at))] * 2], 1)

    images, labels = torch.full((60, 1, 8, 8), 0.5), torch.zeros(60, dtype=torch.int64)
    torch.manual_seed(0)
    plain, on_means = (
        attack(Drawn(), images, labels, epsilon=0.1)
        for attack in (Square(queries=40), SquareOfMeans(queries=40))
    )
    untouched, left = ((made == images).flatten(1).all(1).sum() for made in (plain, on_means))
    assert untouched > 20
    assert left == 0
    assert seen[-41:] == [60] * 41  # a start and 40 queries, each for all images
    assert distance(images, on_means, "linf").max() <= 0.1 + 1e-5
