"""What can be asked of an evaluation, and what is refused because nothing would come of it."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from comdefend.errors import RequestError
from comdefend.evaluation import EvaluationSpec, evaluate
from comdefend.options import with_options_of


def request(**changed: object) -> EvaluationSpec:
    usual: dict[str, object] = {"attacks": "fgsm,pgd", "protocol": "fixed"}
    return EvaluationSpec(**{**usual, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"knowledge": "black-box"},
            "black-box needs an attack that asks for answers: hopskipjump or square",
        ),
        ({"attacks": "fgsm,square"}, "attack 'square' asks for answers"),
        ({"attacks": "square", "knowledge": "white-box,black-box"}, "white-box needs an attack that follows"),
        ({"attacks": "fgms", "knowledge": "white-box"}, "did you mean fgsm"),
        ({"protocol": "maximal", "knowledge": "white-box"}, "no protocol 'maximal'"),
        ({"epsilons": ()}, "attack 'fgsm' needs a budget, and epsilons is empty"),
        (
            {"attacks": "cw", "protocol": "minimal", "surrogate_classifiers": "cifar10-resnet9"},
            "other attacks, and cw has",
        ),
        ({"knowledge": ()}, "knowledge is empty"),
        ({"protocol": ()}, "protocol is empty"),
        ({"attacks": "deepfool"}, "no attack of deepfool has a form under protocol fixed"),
        ({"eot_samples": 0}, "eot_samples is 0; it must be a whole number, at least 1"),
        ({"seed": -1}, "seed is -1"),
        ({"limit": 2.5}, "limit is 2.5"),
        ({"dtype": "float12"}, "float12"),
        ({"slow_limit": 99}, "slow_limit is 99; it must be a whole number, at least 100"),
    ],
)
def test_what_would_try_nothing_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        request(**changed)


def test_one_norm_alone_can_be_asked_for() -> None:
    only = request(attacks="pgd-l2", epsilons=(), knowledge="white-box", l2_epsilons=(2.0, 0.4))
    assert [epsilon for _, epsilon in only.budgets(only.gradient_based())] == [2.0, 0.4]
    assert only.checked_at() == {"linf": 8 / 255, "l2": 0.4}


def test_checks_are_made_at_the_budget_nearest_to_the_usual_one() -> None:
    assert request(epsilons=(2 / 255, 9 / 255, 16 / 255)).checked_at() == {"linf": 9 / 255}


def test_forms_that_attacks_lack_are_told() -> None:
    spec = request(attacks="deepfool,apgd", protocol="fixed,minimal")
    found = [(attack.name, attack.protocol) for attack in spec.gray_box()]
    assert found == [("deepfool", "minimal"), ("apgd", "fixed")]
    assert spec.lacking() == [
        "deepfool has no fixed form: it looks for the smallest perturbation by nature",
        "apgd has no minimal form: it spends its whole budget",
    ]


def test_none_is_no_attack() -> None:
    assert request(attacks="none", knowledge="white-box,black-box").attacks == ()


def test_evaluate_takes_a_spec_and_at_most_eight_parameters_beside_its_fields() -> None:
    parameters = inspect.signature(evaluate).parameters
    named = [p.name for p in parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    assert len(named) <= 8
    assert not set(named) & {field.name for field in fields(EvaluationSpec)}


def test_every_option_is_declared_once_and_says_what_it_means() -> None:
    """The command line has exactly the fields, and no other file declares an option of their names."""

    @with_options_of(EvaluationSpec)
    def command(spec: EvaluationSpec) -> None:
        raise AssertionError(spec)

    options = inspect.signature(command).parameters
    assert list(options) == [field.name for field in fields(EvaluationSpec)]
    for field in fields(EvaluationSpec):
        assert len(field.metadata["help"]) > 20, field.name
    source = Path(inspect.getfile(evaluate)).parents[1]
    body = (source / "cli.py").read_text()
    of_evaluate = body[body.index("def evaluate(") : body.index("def reproduce(")]
    declared = [
        field.name for field in fields(EvaluationSpec) if f"    {field.name}: Annotated" in of_evaluate
    ]
    assert declared == []


def test_the_command_line_reads_budgets_in_255ths_and_lists_with_commas() -> None:
    seen: list[EvaluationSpec] = []

    @with_options_of(EvaluationSpec)
    def command(spec: EvaluationSpec) -> None:
        seen.append(spec)

    nothing = dict.fromkeys(inspect.signature(command).parameters)
    command(**{**nothing, "epsilons": ["2,8/255", "16"], "attacks": ["fgsm,bim:steps=5,step=0.1"]})
    (spec,) = seen
    assert spec.epsilons == (2 / 255, 8 / 255, 16 / 255)
    assert spec.attacks == ("fgsm", "bim:steps=5,step=0.1")
    assert spec.seed == EvaluationSpec().seed
    with pytest.raises(RequestError, match="units of 1/255, and so nearly nothing: write 8, or 8/255"):
        command(**{**nothing, "epsilons": ["0.03"]})
    with pytest.raises(RequestError, match="epsilon 'eight' is no number in units of 1/255"):
        command(**{**nothing, "epsilons": ["eight"]})
