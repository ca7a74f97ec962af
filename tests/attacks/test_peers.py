"""Our attacks against other people's, on the same inputs."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from comdefend.attacks import (
    BIM,
    FGSM,
    MIFGSM,
    PGD,
    Attack,
    CarliniWagner,
    DeepFool,
    distance,
    fooled,
)

EPSILON = 0.05


@pytest.fixture
def images() -> Tensor:
    return torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def labels(tiny_classifier: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        predicted: Tensor = tiny_classifier(images).argmax(1)
    return predicted


def foolbox_run(attack: Any, model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    from foolbox import PyTorchModel
    from foolbox.criteria import Misclassification

    wrapped = PyTorchModel(model, bounds=(0, 1), device="cpu")
    result: Tensor = attack.run(wrapped, images, Misclassification(labels), **options)
    return result


def art(name: str, model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """An attack of the Adversarial Robustness Toolbox."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier
    wrapped = PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=5,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    quiet = {} if name == "FastGradientMethod" else {"verbose": False}
    attack = getattr(evasion, name)(wrapped, **quiet, **options)
    return torch.from_numpy(np.asarray(attack.generate(images.numpy(), labels.numpy())))


def test_fgsm_is_foolboxs(tiny_classifier: nn.Module, images: Tensor, labels: Tensor) -> None:
    from foolbox.attacks import LinfFastGradientAttack

    theirs = foolbox_run(
        LinfFastGradientAttack(random_start=False), tiny_classifier, images, labels, epsilon=EPSILON
    )
    torch.testing.assert_close(FGSM()(tiny_classifier, images, labels, epsilon=EPSILON), theirs)


def test_bim_is_foolboxs(tiny_classifier: nn.Module, images: Tensor, labels: Tensor) -> None:
    from foolbox.attacks import LinfBasicIterativeAttack

    attack = LinfBasicIterativeAttack(rel_stepsize=0.2, steps=10, random_start=False)
    theirs = foolbox_run(attack, tiny_classifier, images, labels, epsilon=EPSILON)
    ours = BIM(steps=10, step=0.2)(tiny_classifier, images, labels, epsilon=EPSILON)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("ours", "theirs"), [(PGD(), "LinfPGD"), (PGD(norm="l2"), "L2PGD")])
def test_pgd_is_foolboxs_from_the_same_start(
    ours: PGD, theirs: str, tiny_classifier: nn.Module, images: Tensor, labels: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import foolbox.attacks

    monkeypatch.setattr(type(ours.ball), "start", lambda _, images, __: images)
    attack = getattr(foolbox.attacks, theirs)(rel_stepsize=ours.step, steps=ours.steps, random_start=False)
    epsilon = EPSILON if ours.norm == "linf" else 0.5
    found = foolbox_run(attack, tiny_classifier, images, labels, epsilon=epsilon)
    torch.testing.assert_close(ours(tiny_classifier, images, labels, epsilon=epsilon), found)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (FGSM(), "FastGradientMethod", {"eps": EPSILON}),
        (BIM(), "BasicIterativeMethod", {"eps": EPSILON, "eps_step": EPSILON / 5, "max_iter": 10}),
        (MIFGSM(), "MomentumIterativeMethod", {"eps": EPSILON, "eps_step": EPSILON / 10, "max_iter": 10}),
    ],
    ids=["fgsm", "bim", "mi-fgsm"],
)  # fmt: skip
def test_targeted_forms_are_arts(
    ours: Attack, theirs: str, options: dict[str, Any],
    tiny_classifier: nn.Module, images: Tensor, labels: Tensor,
) -> None:  # fmt: skip
    targets = (labels + 1) % 5
    found = art(theirs, tiny_classifier, images, targets, targeted=True, **options)
    aimed = ours(tiny_classifier, images, labels, epsilon=EPSILON, targets=targets)
    torch.testing.assert_close(aimed, found)


def test_mi_fgsm_is_arts(tiny_classifier: nn.Module, images: Tensor, labels: Tensor) -> None:
    theirs = art(
        "MomentumIterativeMethod", tiny_classifier, images, labels,
        eps=EPSILON, eps_step=EPSILON / 10, max_iter=10, decay=1.0,
    )  # fmt: skip
    ours = MIFGSM(steps=10, decay=1.0)(tiny_classifier, images, labels, epsilon=EPSILON)
    torch.testing.assert_close(ours, theirs)


def test_deepfool_is_as_near_as_arts(tiny_classifier: nn.Module, images: Tensor, labels: Tensor) -> None:
    theirs = art("DeepFool", tiny_classifier, images, labels, nb_grads=5, epsilon=0.02)
    ours = DeepFool(norm="l2")(tiny_classifier, images, labels, epsilon=None)
    assert bool(fooled(tiny_classifier, ours, labels).all())
    ratio = distance(images, ours, "l2").median() / distance(images, theirs, "l2").median()
    assert 0.8 < float(ratio) < 1.2
    # The same method under the other norm is nearer in that norm.
    other = DeepFool()(tiny_classifier, images, labels, epsilon=None)
    assert distance(images, other, "linf").median() < distance(images, ours, "linf").median()


def test_cw_is_nearer_than_arts_or_as_near(
    tiny_classifier: nn.Module, images: Tensor, labels: Tensor
) -> None:
    theirs = art(
        "CarliniL2Method", tiny_classifier, images, labels, max_iter=50, binary_search_steps=5, batch_size=10
    )
    solved = fooled(tiny_classifier, theirs, labels)
    assert bool(solved.any())
    ours = CarliniWagner()(tiny_classifier, images, labels, epsilon=None)
    near = distance(images, ours, "l2")[solved].median()
    assert float(near) < 1.1 * float(distance(images, theirs, "l2")[solved].median())
