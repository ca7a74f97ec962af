"""Checks that an evaluation makes of itself: was the attacker weak, or the defence strong?

Each gives a line with pass, warn or fail, a figure, and what it means. After Carlini et al., "On evaluating
adversarial robustness", 2019; Tramer et al., "On adaptive attacks to adversarial example defenses", 2020.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from comdefend.attacks import FGSM, PGD, Attack
from comdefend.attacks.adaptive import ESTIMATED, AdaptiveView, gradient_modes
from comdefend.attacks.base import Goal
from comdefend.attacks.iterative import ascend, gradient, random_start
from comdefend.evaluation.adaptive import WORST, worst_cases
from comdefend.evaluation.judge import Judge, Situation
from comdefend.evaluation.planted import last_linear, plant
from comdefend.evaluation.results import Result, ThreatModel, unpack
from comdefend.purifiers import ComDefendPurifier

IMAGES, FEW_IMAGES = 64, 16
"""How many images a check looks at, and one that takes its time."""

POINT = 0.01
"""One point of accuracy. A difference of one image is never held against an attack."""

WIDE = (16 / 255, 32 / 255, 64 / 255, 128 / 255)
"""Budgets at which every defence must fall: at the last nothing is left of an image."""

NOISE_DRAWS = 1000
EOT_DRAWS = (1, 5, 20, 50)

Status = Literal["pass", "warn", "fail"]
Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at for which defence, what was found, what it means.

    `curve`: where budgets were varied, (epsilon as a fraction, accuracy) on `images` images.
    """

    defence: str
    name: str
    status: Status
    figure: str
    meaning: str
    curve: Curve = ()
    images: int = 0


class Checks:
    """All checks of one defence. `epsilon` is the budget (L-infinity, a fraction) at which it is judged;
    `results` are those of the evaluation, which must know white-box attacks on it.
    """

    def __init__(
        self, judge: Judge, name: str, results: Sequence[Result], *, epsilon: float, draws: int
    ) -> None:
        self.judge, self.name, self.epsilon = judge, name, epsilon
        self.purifier = judge.defences[name]
        self.random = bool(getattr(self.purifier, "stochastic", False))
        self.draws = draws if self.random else 1
        self.results = [r for r in results if r.defence == name]
        self.undefended = next((r for r in results if r.defence == "none" and not r.threat_model), None)
        white = [r for r in self.results if self._is(r, "white-box")]
        seen = [r for r in white if r.attack != WORST and not r.via.startswith("transfer")]
        self.tried = tuple(dict.fromkeys(_mode(r) for r in seen))
        followed = [r for r in seen if _mode(r) != ESTIMATED]
        self.mode = _mode(min(followed, key=lambda r: r.accuracy)) if followed else "autograd"
        self.standing: dict[tuple[object, ...], Tensor] = {}
        images = [(i, t) for _, i, t in judge.batches(IMAGES)]
        self.images, self.labels = (torch.cat(part) for part in zip(*images, strict=True))

    def all(self, step: Callable[[str], None] | None = None) -> list[Check]:
        """Every check that applies, in the order of the report. `step` is told the next one's name."""
        found = []
        for check in self._list():
            if step:
                step(f"check of {self.name}: {check.__name__.replace('_', ' ')}")
            with torch.random.fork_rng():  # each has the same random numbers, whatever ran before it
                torch.manual_seed(self.judge.seed)
                found += list(check())
        return found

    def _list(self) -> list[Callable[[], Iterator[Check]]]:
        always = [
            self.clean_accuracy, self.gradients, self.reported, self.one_step, self.budgets, self.steps,
            self.restarts, self.other_attackers, self.noise, self.randomness, self.planted, self.limits,
            self.rounding,
        ]  # fmt: skip
        if self.random:
            always += [self.expectation, self.frozen, self.redrawn]
        if isinstance(self.purifier, ComDefendPurifier) and self.purifier.dtype != torch.float32:
            always.append(self.precision)
        return always

    def clean_accuracy(self) -> Iterator[Check]:
        own = next(r for r in self.results if r.threat_model is None)
        lost = self.undefended.accuracy - own.accuracy if self.undefended else 0.0
        yield self._line(
            "clean accuracy", "warn" if lost > 5 * POINT else "pass",
            f"{own.accuracy:.1%}, {max(lost, 0):.1%} lost",
            "what the defence costs without any attack; robustness is to be read against it",
        )  # fmt: skip

    def gradients(self) -> Iterator[Check]:
        images, goal = self.images[:FEW_IMAGES], Goal(self.labels[:FEW_IMAGES])
        zeros = {
            mode: float((gradient(self._view(mode), images, goal)[0] == 0).float().mean())
            for mode in dict.fromkeys(["autograd", *self.tried])
            if mode != ESTIMATED
        }
        masked = zeros["autograd"] > 0.5
        followed = [mode for mode in self.tried if mode != ESTIMATED and zeros[mode] < 0.5]
        declared = bool(getattr(self.purifier, "gradient_modes", ()))
        figure = f"zero: {zeros['autograd']:.0%} of the plain gradient"
        if followed:
            figure += f", {min(zeros[m] for m in followed):.0%} of {min(followed, key=lambda m: zeros[m])}"
        if isinstance(self.purifier, ComDefendPurifier):
            figure += f"; saturated: {saturated(self.purifier, images):.0%} of the code"
        if masked and not declared:
            status, meaning = "fail", (
                "the defence hides its gradient and declares no way around it (`gradient_modes`); what an "
                "attack that follows gradients leaves here is no robustness"
            )  # fmt: skip
        elif masked and not followed:
            status, meaning = "fail", "only masked gradients were followed: nothing was measured"
        elif masked:
            status, meaning = "pass", "the plain gradient is masked; the attacks went around it"
        else:
            status, meaning = "pass", "attacks had gradients to follow"
        yield self._line("gradient health", status, figure, meaning)  # type: ignore[arg-type]

    def reported(self) -> Iterator[Check]:
        """The attacks that were asked for against plain PGD, in every mode that the defence knows."""
        worst = [r for r in worst_cases(self.results) if self._is(r, "white-box") and self._at_budget(r)]
        if not worst:
            tried = any(self._is(r, "white-box") for r in self.results)
            yield self._line(
                "attacks asked for", "warn" if tried else "fail", "none under L-infinity at this budget",
                "what other norms and budgets gave was not checked" if tried else "nothing was measured",
            )  # fmt: skip
            return
        left = unpack(worst[0].right, worst[0].n)[:IMAGES]
        broken = left & ~self._mask(self._pgd(), self.epsilon)[: len(left)]
        better = [f"PGD ({self.mode})"] if self._more(float(broken.float().mean()), 0, len(left)) else []
        for mode in gradient_modes(self.purifier):
            if mode in (*self.tried, ESTIMATED):
                continue
            few = left[:FEW_IMAGES]
            mask = self._mask(self._pgd(steps=10), self.epsilon, few=True, mode=mode)[: len(few)]
            if self._more(float((few & ~mask).float().mean()), 0, len(few)):
                better.append(f"PGD ({mode}), which was not tried")
        yield self._line(
            "attacks asked for", "fail" if better else "pass",
            f"{float(left.float().mean()):.1%} left; "
            + (f"more broken by {', '.join(better)}" if better else "plain PGD breaks none of it"),
            "where the checks' own attack breaks what was reported to withstand, the attacks were too weak",
        )  # fmt: skip

    def one_step(self) -> Iterator[Check]:
        one, many = self._accuracy(FGSM(), self.epsilon), self._accuracy(self._pgd(), self.epsilon)
        yield self._line(
            "many steps against one", "pass" if not self._more(many, one) else "fail",
            f"PGD {many:.1%}, FGSM {one:.1%}",
            "an iterative attack that finds less than one step is lost in a masked gradient",
        )  # fmt: skip

    def budgets(self) -> Iterator[Check]:
        smaller = [self.epsilon / part for part in (8, 4, 2)]
        budgets = [*smaller, self.epsilon, *(e for e in WIDE if e > self.epsilon)]
        left = [self._accuracy(self._pgd(), e) for e in budgets]
        rises = any(self._more(after, before) for before, after in pairwise(left))
        with torch.no_grad():
            chance = 1 / self._view(self.mode)(self.images[:1]).shape[1]
        reached = not self._more(left[-1], chance + 3 * POINT)
        curve = ", ".join(f"{a:.0%} at {e * 255:g}" for e, a in zip(budgets, left, strict=True))
        yield self._line(
            "other budgets", "pass" if reached and not rises else "fail", curve,
            "accuracy must fall as the budget grows, to chance or below where the image can be erased",
            curve=tuple(zip(budgets, left, strict=True)),
        )  # fmt: skip

    def steps(self) -> Iterator[Check]:
        once, twice = (self._accuracy(self._pgd(steps=n), self.epsilon) for n in (20, 40))
        yield self._line(
            "twice the steps", "pass" if not self._more(once, twice) else "fail",
            f"{once:.1%} after 20, {twice:.1%} after 40",
            f"the attack had converged, as far as {len(self.images)} images tell",
        )  # fmt: skip

    def restarts(self) -> Iterator[Check]:
        once, twice = (self._accuracy(self._pgd(restarts=n), self.epsilon) for n in (3, 6))
        yield self._line(
            "twice the restarts", "pass" if not self._more(once, twice) else "fail",
            f"{once:.1%} with 3, {twice:.1%} with 6",
            f"more starting points find nothing new, as far as {len(self.images)} images tell",
        )  # fmt: skip

    def other_attackers(self) -> Iterator[Check]:
        """Attackers who know less must not do better, on the images that both were given."""
        at = [r for r in self.results if self._at_budget(r) and r.attack != WORST and r.right]
        white = [r for r in at if self._is(r, "white-box") and _mode(r) in self.tried]
        if not white:
            return
        clean = next(r for r in self.results if r.threat_model is None)
        full = unpack(clean.right, clean.n)
        for result in white:
            full[: result.n] &= unpack(result.right, result.n)
        worse = []
        others = [r for r in at if r not in white]
        for result in others:
            left = float(full[: result.n].float().mean())
            if self._more(left, result.accuracy, result.n):
                worse.append(f"{result.attack} {result.via or _knowledge(result)} {result.accuracy:.1%}")
        figure = f"white-box {float(full.float().mean()):.1%}; "
        figure += f"better: {', '.join(worse)}" if worse else f"none of {len(others)} others is better"
        if not others:
            figure = "there are none: ask for black-box or gray-box ones too"
        yield self._line(
            "attackers who know less", "fail" if worse else "pass" if others else "warn", figure,
            "where queries or transferred images break more, the white-box attack was too weak",
        )  # fmt: skip

    def noise(self) -> Iterator[Check]:
        """Random corners of the budget, on what all attacks of an attacker who knows left standing."""
        worst = [r for r in worst_cases(self.results) if self._is(r, "white-box") and self._at_budget(r)]
        if not worst:
            return
        standing = unpack(worst[0].right, worst[0].n)[:IMAGES]
        rows = torch.nonzero(standing)[:FEW_IMAGES, 0]
        broken = 0
        view = self._view(self.mode)
        for row in rows.tolist():
            image, label = self.images[row : row + 1], self.labels[row]
            for start in range(0, NOISE_DRAWS, 50):
                sign = torch.where(torch.rand(min(50, NOISE_DRAWS - start), *image.shape[1:]) < 0.5, -1, 1)
                draws = (image + self.epsilon * sign.to(image)).clamp(0, 1)
                if bool((self.judge.predict(view, draws) != label).any()):
                    broken += 1
                    break
        yield self._line(
            "random noise", "fail" if broken > (1 if self.random else 0) else "pass",
            f"{broken} of {len(rows)} images that withstood, in {NOISE_DRAWS} draws each"
            if len(rows) else "no image withstood",
            "noise of the size of the budget must not find what the attack missed",
        )  # fmt: skip

    def randomness(self) -> Iterator[Check]:
        with torch.no_grad():
            passes = [self.judge.classifier(self.purifier(self.images[:FEW_IMAGES])) for _ in range(5)]
        apart = max(float((p - passes[0]).abs().max()) for p in passes)
        hidden, claimed = apart > 1e-3 and not self.random, apart == 0 and self.random
        yield self._line(
            "randomness", "fail" if hidden or claimed else "pass",
            f"logits differ by up to {apart:.2g} in five passes",
            "it is random and does not say so (`stochastic`): no expectation was taken" if hidden
            else "it says that it is random and is not: it was spared attacks on deterministic defences"
            if claimed else "random, as it says" if self.random else "the same image gives the same answer",
        )  # fmt: skip

    def planted(self) -> Iterator[Check]:
        """A linear head that calls one corner of the budget adversarial and its neighbours
        harmless: an attack that works finds its way to the planted one.
        """
        layer = last_linear(self.judge.classifier)
        found = made = 0
        for row in range(min(FEW_IMAGES, len(self.images))):
            head = plant(self._view(self.mode), layer, self.images[row : row + 1], self.epsilon)
            if head is None:
                continue
            made += 1
            goal = Goal(torch.zeros(1, dtype=torch.long, device=self.images.device))
            image = self.images[row : row + 1]
            for _ in range(2):
                at = ascend(
                    head, image, goal, self.epsilon, steps=50, step=0.1, loss="margin",
                    start=random_start(image, self.epsilon, "linf"), early=not self.random,
                )  # fmt: skip
                if bool(goal.reached(head, at).all()):
                    found += 1
                    break
        if not made:
            yield self._line(
                "planted example", "warn", "none could be planted",
                "the defence maps the whole neighbourhood to the same features",
            )  # fmt: skip
            return
        yield self._line(
            "planted example", "pass" if found >= 0.8 * made else "fail", f"{found} of {made} found",
            "an attack that misses adversarial examples which are there says nothing where it finds none",
        )  # fmt: skip

    def limits(self) -> Iterator[Check]:
        """Budget, range and logits are verified before and during the work. What is left: a mode may
        borrow a gradient, but must not change what is attacked.
        """
        count = sum(r.threat_model is not None for r in self.results)
        images, others = self.images[:FEW_IMAGES], []
        if not self.random:
            with torch.no_grad():
                own = self.judge.classifier(self.purifier(images))
                for mode in self.tried:
                    logits = self._view(mode)(images)
                    if not torch.allclose(logits, own, rtol=1e-2, atol=1e-2 * float(own.abs().max())):
                        others.append(mode)
        yield self._line(
            "budget, range, logits", "fail" if others else "pass",
            f"{count} attacks" + (f"; not the defence itself: {', '.join(others)}" if others else ""),
            "every adversarial image lies within its budget and [0, 1], the classifier gives logits, and "
            "every gradient mode attacks the defence itself",
        )  # fmt: skip

    def rounding(self) -> Iterator[Check]:
        measured = [r for r in self.results if r.rounded is not None and self._at_budget(r)]
        if not measured:
            return
        worst = min(measured, key=lambda r: r.accuracy)
        after = (worst.rounded or 0) / worst.n
        yield self._line(
            "stored as 8 bits", "warn" if self._more(after - POINT, worst.accuracy, worst.n) else "pass",
            f"{worst.accuracy:.1%} before, {after:.1%} after rounding ({worst.attack})",
            "adversarial images that are kept as PNG",
        )  # fmt: skip

    def expectation(self) -> Iterator[Check]:
        left = {n: self._accuracy(self._pgd(steps=10), self.epsilon, draws=n, few=True) for n in EOT_DRAWS}
        used = min(left, key=lambda n: abs(n - self.draws))
        enough = not self._more(left[used], left[EOT_DRAWS[-1]], FEW_IMAGES)
        yield self._line(
            "draws for the gradient (EOT)", "pass" if enough else "fail",
            ", ".join(f"{a:.0%} with {n}" for n, a in left.items()), "more draws find nothing new",
        )  # fmt: skip

    def frozen(self) -> Iterator[Check]:
        view = AdaptiveView(self.judge.classifier, self.purifier, mode=self.mode, frozen=self.judge.seed)
        images, goal = self.images[:FEW_IMAGES], Goal(self.labels[:FEW_IMAGES])
        # Not early: a draw goes with the place of an image in its batch, and so must stay there.
        at = ascend(view, images, goal, self.epsilon, steps=20, step=0.125)
        left = float((~goal.reached(view, at)).float().mean())
        alive = self._accuracy(self._pgd(), self.epsilon, few=True)
        yield self._line(
            "without its randomness", "pass" if not self._more(left, alive, FEW_IMAGES) else "fail",
            f"{left:.1%} frozen, {alive:.1%} random",
            "an attack that fails with the draw fixed is weak, whatever the randomness",
        )  # fmt: skip

    def redrawn(self) -> Iterator[Check]:
        measured = [r for r in self.results if r.repeats is not None and self._at_budget(r)]
        if not measured:
            return
        worst = min(measured, key=lambda r: r.accuracy)
        assert worst.repeats is not None
        drawn = worst.repeats
        yield self._line(
            "judged again", "warn" if drawn.mean - drawn.worst > 10 * POINT else "pass",
            f"mean {drawn.mean:.1%}, majority {drawn.majority:.1%}, worst {drawn.worst:.1%} "
            f"of {drawn.draws} draws ({worst.attack})",
            "one lucky draw is no robustness: an attacker may try again",
        )  # fmt: skip

    def precision(self) -> Iterator[Check]:
        twin = copy.deepcopy(self.purifier)
        assert isinstance(twin, ComDefendPurifier)
        twin.model.float()
        threat = ThreatModel("linf", self.epsilon, "white-box")
        situation = Situation(self._view(self.mode), (self.name,), self._pgd(), threat)
        at = self.judge.attack(situation, self.images, self.labels, 0)
        rough, exact = (
            self.judge.predict(self.judge.classifier, p(at)) == self.labels for p in (self.purifier, twin)
        )
        apart = int((rough != exact).sum())
        yield self._line(
            "computed in half precision", "pass" if apart <= max(1, POINT * len(at)) else "warn",
            f"{apart} of {len(at)} attacked images end otherwise in float32", "bfloat16 is only for speed",
        )  # fmt: skip

    def _pgd(self, *, steps: int = 20, restarts: int = 1) -> PGD:
        return PGD(
            steps=steps, step=0.125, restarts=restarts, losses=("cross-entropy", "margin", "dlr"),
            early=not self.random,
        )  # fmt: skip

    def _view(self, mode: str, draws: int | None = None) -> AdaptiveView:
        return AdaptiveView(self.judge.classifier, self.purifier, mode=mode, draws=draws or self.draws)

    def _accuracy(
        self, attack: Attack, epsilon: float, *, draws: int | None = None, few: bool = False
    ) -> float:
        """What one white-box attack through the best mode leaves of the check's images."""
        return float(self._mask(attack, epsilon, draws=draws, few=few).float().mean())

    def _mask(
        self, attack: Attack, epsilon: float, *, draws: int | None = None, few: bool = False, mode: str = ""
    ) -> Tensor:
        """Which of the check's images withstand one white-box attack, N booleans; by default through the
        best mode. Several checks look at the same one.
        """
        limit, mode = FEW_IMAGES if few else IMAGES, mode or self.mode
        key = (attack, epsilon, draws, limit, mode)
        if key not in self.standing:
            threat = ThreatModel("linf", epsilon, "white-box")
            situation = Situation(self._view(mode, draws), (self.name,), attack, threat, limit=limit)
            self.standing[key] = self.judge.run(situation).mask(self.name)
        return self.standing[key]

    def _more(self, one: float, other: float, images: int = 0) -> bool:
        """Whether one accuracy exceeds another by more than a point, and by more than one image."""
        count = images or len(self.images)
        return one - other > max(POINT, 1.5 / count) + (3 * POINT if self.random else 0)

    def _is(self, result: Result, knowledge: str) -> bool:
        return result.threat_model is not None and result.threat_model.knowledge == knowledge

    def _at_budget(self, result: Result) -> bool:
        threat = result.threat_model
        if threat is None or threat.norm != "linf" or threat.epsilon is None:
            return False
        return abs(threat.epsilon - self.epsilon) < 1e-9

    def _line(self, name: str, status: Status, figure: str, meaning: str, *, curve: Curve = ()) -> Check:
        return Check(
            self.name, name, status, figure, meaning, curve=curve, images=len(self.images) if curve else 0
        )


def saturated(purifier: ComDefendPurifier, images: Tensor) -> float:
    """The share of the code whose sigmoid has a derivative of exactly zero in float32."""
    with torch.no_grad():
        code = torch.sigmoid(purifier.model.com(images.to(purifier.dtype)).float())
    return float((code * (1 - code) == 0).float().mean())


def _mode(result: Result) -> str:
    return result.via.split(",")[0]


def _knowledge(result: Result) -> str:
    return result.threat_model.knowledge if result.threat_model else "clean"
