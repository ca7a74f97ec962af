"""What can be asked of an evaluation, and what is refused because nothing would come of it."""

import pytest

from comdefend.errors import RequestError
from comdefend.evaluation.request import Request


def request(**changed: object) -> Request:
    usual: dict[str, object] = {
        "attacks": "fgsm,pgd", "knowledge": "gray-box", "protocols": "fixed", "linf": 8 / 255, "l2": 0.5,
        "modes": None, "draws": 1, "stand_ins": (), "sources": (),
    }  # fmt: skip
    return Request.of(**{**usual, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"knowledge": "black-box"}, "black-box needs an attack that asks for answers: square or hopskipj"),
        ({"attacks": "fgsm,square"}, "attack 'square' asks for answers"),
        ({"attacks": "square", "knowledge": "white-box,black-box"}, "white-box needs an attack that follows"),
        ({"attacks": "fgms", "knowledge": "white-box"}, "did you mean fgsm"),
        ({"protocols": "maximal", "knowledge": "white-box"}, "no protocol 'maximal'"),
        ({"linf": ()}, "attack 'fgsm' needs a budget, and epsilons is empty"),
        (
            {"attacks": "cw", "protocols": "minimal", "sources": "cifar10-resnet9"},
            "other attacks, and cw has",
        ),
        ({"knowledge": ()}, "knowledge is empty"),
        ({"protocols": ()}, "protocols is empty"),
        ({"attacks": "deepfool"}, "no attack of deepfool has a form under protocol fixed"),
        ({"draws": 0}, "draws is 0"),
        ({"slow_limit": 99}, "slow_limit is 99; it must be at least 100"),
    ],
)
def test_what_would_try_nothing_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        request(**changed)


def test_one_norm_alone_can_be_asked_for() -> None:
    only = request(attacks="pgd-l2", linf=(), knowledge="white-box", l2=(2.0, 0.4))
    assert [epsilon for _, epsilon in only.budgets(only.gradient_based())] == [2.0, 0.4]
    assert only.checked_at() == {"linf": 8 / 255, "l2": 0.4}


def test_checks_are_made_at_the_budget_nearest_to_the_usual_one() -> None:
    assert request(linf=(2 / 255, 9 / 255, 16 / 255)).checked_at() == {"linf": 9 / 255}


def test_forms_that_attacks_lack_are_told() -> None:
    found, notes = request(attacks="deepfool,pgd-l2", protocols="fixed,minimal").by_protocol()
    assert [(attack.name, attack.protocol) for attack in found] == [
        ("deepfool", "minimal"),
        ("pgd-l2", "fixed"),
    ]
    assert notes == [
        "deepfool has no fixed form: it looks for the smallest perturbation by nature",
        "pgd-l2 has no minimal form: it spends its whole budget",
    ]


def test_none_is_no_attack() -> None:
    assert request(attacks="none", knowledge="white-box,black-box").attacks == ()
