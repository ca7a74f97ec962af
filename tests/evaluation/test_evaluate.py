"""Evaluation on a tiny network: what is counted, what is refused, what is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from comdefend.data import ImageSet
from comdefend.errors import RequestError
from comdefend.evaluation import EvaluationSpec, Report, evaluate, plan
from comdefend.evaluation.report import write_report
from comdefend.evaluation.tables import rows
from comdefend.evaluation.worst_case import WORST
from comdefend.purifiers import ComDefendPurifier, Identity
from tests.conftest import TinyClassifier, tiny_model


def test_every_cell_has_every_defence_and_all_images(gray_box_report: Report) -> None:
    table = rows(gray_box_report.results)
    assert [(r.protocol, r.attack, r.budget) for r in table] == [
        ("-", "no attack", "-"),
        ("fixed", "fgsm", "8/255 linf"),
        ("fixed", "fgsm", "16/255 linf"),
        ("minimal", "fgsm", "8/255 linf"),
        ("minimal", "fgsm", "16/255 linf"),
        ("minimal", "deepfool", "8/255 linf"),
        ("minimal", "deepfool", "16/255 linf"),
        ("minimal", "cw", "unlimited l2"),
    ]
    for row in table:
        assert list(row.results) == ["none", "perfect", "tiny"]
        assert {r.n for r in row.results.values()} == {30}


def test_a_perfect_defence_keeps_clean_accuracy_and_none_loses_it(gray_box_report: Report) -> None:
    clean = next(r for r in gray_box_report.results if (r.attack, r.defence) == ("none", "none"))
    for result in gray_box_report.results:
        if result.defence == "perfect":
            assert result.correct == clean.correct
        if result.defence == "none" and result.attack == "cw":
            assert result.correct == 0
            assert result.fooled == clean.correct


def test_clean_rows_tell_the_psnr_and_attacked_ones_the_distance(gray_box_report: Report) -> None:
    by = {(r.attack, r.protocol, r.defence): r for r in gray_box_report.results}
    assert by["none", None, "none"].psnr is None
    assert by["none", None, "perfect"].psnr == pytest.approx(100)
    assert 3 < (by["none", None, "tiny"].psnr or 0) < 30
    distance = by["fgsm", "minimal", "tiny"].distance
    assert distance is not None
    assert 0 < distance < 16 / 255


def test_every_result_says_where_it_came_from(gray_box_report: Report) -> None:
    for result in gray_box_report.results:
        assert "torch" in result.software
        assert "processor" in result.hardware
        assert result.interval[0] <= result.accuracy <= result.interval[1]
        if result.attack != "none":
            assert result.threat_model is not None
            assert result.threat_model.knowledge == "gray-box"


def test_what_is_left_out_is_said(gray_box_report: Report) -> None:
    assert gray_box_report.notes == (
        "deepfool has no fixed form: it looks for the smallest perturbation by nature",
        "cw has no fixed form: it looks for the smallest perturbation by nature",
    )


def test_the_batch_size_changes_nothing(sample: ImageSet) -> None:
    def run(batch: int) -> list[float]:
        made = evaluate(
            TinyClassifier(classes=10).eval(),
            Identity(),
            data=sample,
            attacks=["fgsm"],
            limit=20,
            batch=batch,
        )
        return [r.correct for r in made.results]

    assert run(20) == run(7)


def test_results_identify_the_defences_weights(sample: ImageSet) -> None:
    made = evaluate(
        TinyClassifier(classes=10), "comdefend", data=sample, attacks=[], limit=2, dtype="bfloat16"
    )
    settings = made.results[1].defence_settings
    assert (settings["weights"], settings["dtype"], len(settings["sha256"])) == ("cifar10", "bfloat16", 64)


def test_without_attacks_only_clean_accuracy_is_measured(sample: ImageSet) -> None:
    made = evaluate(TinyClassifier(classes=10).eval(), Identity(), data=sample, attacks=["none"], limit=5)
    assert [r.attack for r in made.results] == ["none", "none"]
    assert made.examples == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"purifiers": [Identity(), Identity()]}, "need names: a mapping"),
        ({"attacks": ["fgms"]}, "did you mean fgsm"),
        ({"epsilons": [0.0]}, "must lie above 0"),
        ({"epsilons": "8"}, "epsilons holds '8'; budgets are numbers such as 8 / 255"),
        ({"epsilons": [8.0]}, r"8 as a fraction \(2040/255\)"),
        ({"protocol": ["maximal"]}, "no protocol 'maximal'"),
        ({"batch": 0}, "batch is 0"),
        ({"data": "sample:fashion-mnist"}, "takes images of 3 channels; those of .* have 1"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(settings: dict[str, object], message: str) -> None:
    usual = {"purifiers": ComDefendPurifier(tiny_model()), "data": "sample:cifar10", "limit": 4}
    with pytest.raises(RequestError, match=message):
        evaluate(TinyClassifier(classes=10).eval(), **{**usual, **settings})  # type: ignore[arg-type]


class Sealed(TinyClassifier):
    """Answers, and hands no gradient back."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


def test_a_classifier_without_gradients_is_attacked_by_queries_alone(sample: ImageSet) -> None:
    with pytest.raises(RequestError, match=r"'Sealed': the model hands no gradient back .* square and"):
        evaluate(Sealed(classes=10).eval(), Identity(), data=sample, limit=4)
    found = evaluate(
        Sealed(classes=10).eval(), "none", data=sample, limit=4, attacks="square:queries=20",
        knowledge="black-box",
    ).results  # fmt: skip
    assert {r.attack for r in found} >= {"none", "square:queries=20"}


def test_too_few_classes_are_refused_even_if_the_first_images_fit(sample: ImageSet) -> None:
    network: nn.Module = TinyClassifier(classes=9).eval()
    with pytest.raises(RequestError, match="knows 9 classes"):
        evaluate(network, Identity(), data=sample)


def test_a_folder_of_fewer_classes_than_the_classifier_knows_is_noted(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.effect_noise((32, 32), 60).convert("RGB").save(tmp_path / name / "0.png")
    report = evaluate(TinyClassifier(classes=10).eval(), "none", data=str(tmp_path), attacks="none")
    assert "names 2 classes and the classifier knows 10" in report.notes[0]


def test_an_empty_data_set_is_refused(sample: ImageSet) -> None:
    with pytest.raises(RequestError, match="holds no images"):
        evaluate(TinyClassifier(classes=10), Identity(), data=sample.subset([]))


def test_a_classifier_for_other_classes_is_refused(sample: ImageSet) -> None:
    with pytest.raises(RequestError, match="knows 12 classes, and the data 10: it is for other data"):
        evaluate(TinyClassifier(classes=12).eval(), "none", data=sample, limit=4)


def test_single_names_and_numbers_do_for_lists(sample: ImageSet) -> None:
    network = TinyClassifier(classes=10).eval()
    one = evaluate(
        network, "jpeg", data=sample, limit=4, attacks="fgsm, bim:steps=2,step=0.5", protocol="fixed",
        knowledge="gray-box", epsilons=8 / 255,
    )  # fmt: skip
    assert {r.attack for r in one.results if r.threat_model} == {"fgsm", "bim:steps=2,step=0.5"}
    assert {r.threat_model.epsilon for r in one.results if r.threat_model} == {8 / 255}


def test_a_report_prints_as_the_tables_with_their_threat_model(
    sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    made = evaluate(TinyClassifier(classes=10).eval(), "jpeg", data=sample, limit=4, attacks=["fgsm"])
    text = str(made)
    for word in ("undefended", "jpeg", "minimal", "8/255 linf", "Attacker (gray-box)"):
        assert word in text, word
    assert "sha256" not in text
    assert "\x1b" not in text


def test_what_is_no_module_and_a_budget_that_is_no_fraction_are_refused(sample: ImageSet) -> None:
    with pytest.raises(RequestError, match=r"classifier is a function; a torch\.nn\.Module"):
        evaluate(lambda images: images, "none", data=sample, limit=4)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="defence 'it' is a int; a reference, or a module or function"):
        evaluate(TinyClassifier(classes=10).eval(), {"it": 3}, data=sample, limit=4)  # type: ignore[dict-item]
    with pytest.raises(RequestError, match=r"epsilon is 8 as a fraction .* did you mean 8/255\?"):
        evaluate(TinyClassifier(classes=10).eval(), "none", data=sample, limit=4, epsilons=[8])


class Halves(nn.Module):
    """A defence of somebody's that knows nothing of this package."""

    def forward(self, images: Tensor) -> Tensor:
        return images / 2


def test_a_plain_module_is_a_defence_in_every_threat_model(sample: ImageSet) -> None:
    made = evaluate(
        TinyClassifier(classes=10).eval(), {"halves": Halves(), "same": lambda images: images}, sample,
        attacks="fgsm", knowledge="gray-box,white-box", limit=6, checks=False,
    )  # fmt: skip
    modes = {r.mode for r in made.results if r.defence == "halves" and r.knowledge == "white-box"}
    assert {"autograd", "identity"} <= modes
    by = {(r.defence, r.attack): r.correct for r in made.results if not r.threat_model}
    assert by["same", "none"] == by["none", "none"]


def test_a_spec_and_options_beside_it_are_one_request(sample: ImageSet) -> None:
    spec = EvaluationSpec(attacks=("fgsm",), protocol=("fixed",), limit=4)
    network = {"mine": TinyClassifier(classes=10).eval()}
    made = evaluate(network, "none", sample, spec, epsilons=4 / 255)
    assert {r.threat_model.epsilon for r in made.results if r.threat_model} == {4 / 255}
    assert {(r.classifier, r.n) for r in made.results} == {("mine", 4)}
    with pytest.raises(RequestError, match="classifier names 2 modules; one is evaluated at a time"):
        evaluate({**network, "other": Halves()}, "none", sample, spec)


def test_a_plan_lists_what_an_evaluation_then_runs(sample: ImageSet) -> None:
    network = TinyClassifier(classes=10).eval()
    settings: dict[str, Any] = {"attacks": "fgsm,square:queries=5", "limit": 6}
    told: list[str] = []
    planned = plan(network, "jpeg", sample, knowledge="gray-box,white-box,black-box", **settings)
    made = evaluate(
        network, "jpeg", sample, knowledge="gray-box,white-box,black-box", checks=False, **settings,
        progress=lambda done, total, text: told.append(f"{done <= total} {text}"),
    )  # fmt: skip
    titles = [scenario.title for scenario, _ in planned.scenarios]
    assert titles[0] == "clean"
    assert list(dict.fromkeys(titles)) == list(
        dict.fromkeys(r.title for r in made.results if r.attack != WORST)
    )
    assert all(seconds >= 0 for _, seconds in planned.scenarios)
    assert planned.checks > 0
    assert planned.seconds > planned.checks
    assert all(text.startswith("True") for text in told)


def test_a_network_is_left_as_it_was_where_preparing_fails(
    sample: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = TinyClassifier(classes=10).train()

    def broken(_: nn.Module) -> bool:
        raise RuntimeError("in the middle of it")

    monkeypatch.setattr("comdefend.evaluation.judge.is_random", broken)
    with pytest.raises(RuntimeError, match="in the middle of it"):
        evaluate(network, "none", sample, limit=4)
    assert network.weights.requires_grad
    assert network.training


class Rounds(TinyClassifier):
    """Sees images of 8 bits, and so has a gradient of zero everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images * 255).round() / 255)


def test_images_that_no_attack_moved_are_flagged_in_every_threat_model(sample: ImageSet) -> None:
    stuck = evaluate(
        Rounds(classes=10).eval(), "none", sample, attacks="fgsm,bim", knowledge="gray-box,white-box",
        protocol="fixed", limit=40, checks=False,
    )  # fmt: skip
    flagged = {(r.knowledge, r.attack) for r in stuck.results if any("not moved" in f for f in r.flags)}
    right = next(r for r in stuck.results if r.attack == "none").correct
    assert right > 0
    assert flagged == {(k, a) for k in ("gray-box", "white-box") for a in ("fgsm", "bim")}
    assert any("no gradient to follow" in note and "gray-box: bim" in note for note in stuck.notes)
    moving = evaluate(TinyClassifier(classes=10).eval(), "none", sample, attacks="fgsm", limit=6)
    assert not any("no gradient" in note for note in moving.notes)


def test_a_class_may_be_called_like_a_formula_or_like_markup(tmp_path: Path) -> None:
    for name in ("0 $x^$", "1 [bold]=A1+1", "2 <b>"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.effect_noise((32, 32), 60).convert("RGB").save(tmp_path / "data" / name / "0.png")
    report = evaluate(
        TinyClassifier(classes=10).eval(), {"[red]$x^$": Identity()}, str(tmp_path / "data"), attacks="fgsm"
    )
    paths = write_report(report, tmp_path / "report")
    page = paths["page"].read_text()
    assert "[red]$x^$" in page
    assert "[red]$x^$" in str(report)
