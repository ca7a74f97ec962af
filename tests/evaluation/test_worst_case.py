"""The worst case over attacks, image by image."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from comdefend.evaluation import Report, Result, ThreatModel
from comdefend.evaluation.results import pack, unpack
from comdefend.evaluation.tables import added, counted, headlines
from comdefend.evaluation.worst_case import WORST, worst_cases
from comdefend.threat import Knowledge

BUDGET = 8 / 255


def test_the_worst_case_is_no_better_than_any_attack(adaptive_report: Report) -> None:
    for worst in (r for r in adaptive_report.results if r.attack == WORST):
        assert worst.threat_model
        for result in adaptive_report.results:
            if result.defence == worst.defence and result.n == worst.n:
                threat = result.threat_model
                if threat is None or (
                    threat.knowledge in ("gray-box", worst.threat_model.knowledge)
                    and (threat.norm, threat.epsilon) == (worst.threat_model.norm, worst.threat_model.epsilon)
                ):
                    assert worst.correct <= result.correct


def test_headlines_hold_both_attackers_side_by_side(adaptive_report: Report) -> None:
    lines = {(h.budget, h.defence): h for h in headlines(adaptive_report.results)}
    line = lines["16/255 linf", "tiny"]
    assert line.worst["white-box"].correct <= line.worst["gray-box"].correct <= line.clean.correct
    assert ("0.5 l2", "tiny") in lines


def test_the_worst_case_counts_images_and_not_averages() -> None:
    def result(right: list[bool], attack: str, **threat: object) -> Result:
        model = ThreatModel("linf", BUDGET, **threat) if threat else None  # type: ignore[arg-type]
        mask = torch.tensor(right)
        return Result("d", "c", "p", attack, len(right), sum(right), model, right=pack(mask))

    clean = result([True, True, True, False], "none")
    gray = result([True, True, False, False], "a", knowledge="gray-box")
    white = result([False, True, True, False], "b", knowledge="white-box")
    found = {r.threat_model.knowledge: r for r in worst_cases([clean, gray, white]) if r.threat_model}
    assert unpack(found["gray-box"].right, 4).tolist() == [1, 1, 0, 0]
    assert found["white-box"].correct == 1
    few = result([True, False], "c", knowledge="white-box")
    smaller = replace(white, threat_model=ThreatModel("linf", BUDGET / 2, "white-box"))
    larger = replace(white, threat_model=ThreatModel("linf", BUDGET * 2, "white-box"))
    at = {r.threat_model.epsilon: r.correct for r in worst_cases([clean, smaller, larger]) if r.threat_model}
    assert at == {BUDGET / 2: 2, BUDGET * 2: 2}
    (only,) = worst_cases([clean, few])  # two images were never attacked: nothing is said of them
    assert (only.n, only.correct) == (2, 1)


def test_robust_accuracy_is_over_the_images_that_every_attack_was_given() -> None:
    def result(right: Sequence[int], attack: str, knowledge: Knowledge | None) -> Result:
        model = ThreatModel("linf", BUDGET, knowledge) if knowledge else None
        shares = torch.tensor(right).float()
        return Result("d", "c", "p", attack, len(right), sum(right), model, right=pack(shares))

    clean = result([1] * 200, "none", None)
    quick = result([0] * 50 + [1] * 150, "pgd", "white-box")
    slow = result([0] * 80 + [1] * 20, "autoattack", "white-box")
    estimate = replace(result([0] * 16, "pgd", "white-box"), mode="spsa")
    trial = replace(slow, trial=True)
    (worst,) = worst_cases([clean, quick, slow, estimate])
    assert (worst.n, worst.correct) == (100, 20)
    assert counted(worst, [clean]) == "20.0 [13.3, 28.9] n=100"
    (alone,) = worst_cases([clean, quick, estimate, trial])
    assert (alone.n, alone.correct) == (200, 150)
    asked = result([1] * 30 + [0] * 10, "square", "black-box")
    by = {r.knowledge: (r.n, r.correct) for r in worst_cases([clean, quick, slow, asked])}
    assert by == {"white-box": (100, 20), "black-box": (40, 30)}


def test_what_a_defence_adds_is_told_image_by_image() -> None:
    def made(defence: str, count: int, correct: int, attack: str, knowledge: Knowledge | None) -> Result:
        model = ThreatModel("linf", BUDGET, knowledge) if knowledge else None
        mask = torch.arange(count) < correct
        return Result("d", "c", defence, attack, count, correct, model, right=pack(mask))

    results = [
        made("none", 200, 180, "none", None), made("p", 200, 170, "none", None),
        made("none", 200, 90, "pgd", "gray-box"), made("p", 100, 90, "pgd", "gray-box"),
        made("none", 200, 80, "pgd", "white-box"), made("p", 200, 90, "pgd", "white-box"),
        made("none", 100, 70, "autoattack", "white-box"), made("p", 100, 50, "autoattack", "white-box"),
    ]  # fmt: skip
    (line,) = added([*results, *worst_cases(results)])
    budget, defence, clean, gray_box, white_box = line
    assert (budget, defence, gray_box) == ("8/255 linf", "p", "")  # of other images
    assert clean.startswith("-5.0 [-8.")
    assert white_box.startswith("-20.0 [")  # 70 and 50 of the hundred that all attacks were given
    assert added([r for r in results if r.defence == "p"]) == []
