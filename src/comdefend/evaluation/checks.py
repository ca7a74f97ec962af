"""Checks that an evaluation makes of itself: was the attacker weak, or the defence strong?

Each gives a line with pass, warn, fail or skip, a figure, and what it means. After Carlini et al., "On
evaluating adversarial robustness", 2019; Tramer et al., "On adaptive attacks to adversarial example
defenses", 2020.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from comdefend.attacks import FGSM, PGD, PGDL2, Attack, Norm, Square
from comdefend.attacks.adaptive import ESTIMATED, AdaptiveView, gradient_modes
from comdefend.attacks.base import Goal
from comdefend.attacks.iterative import ascend, gradient, random_start
from comdefend.errors import MissingExtraError
from comdefend.evaluation.adaptive import SCANS, WORST, worst_cases
from comdefend.evaluation.judge import Judge, Situation
from comdefend.evaluation.planted import output_layer, plant
from comdefend.evaluation.results import Result, ThreatModel
from comdefend.purifiers import ComDefendPurifier

IMAGES, FEW_IMAGES = 64, 16
"""How many images a check looks at, and one that takes its time."""

POINT = 0.01
"""One point of accuracy. A difference of one image is never held against an attack."""

WIDE = (16 / 255, 32 / 255, 64 / 255, 128 / 255)
"""Budgets at which every defence must fall: at the last nothing is left of an image."""

NOISE_DRAWS = 1000
QUERIES = 1000
EOT_DRAWS = (1, 5, 20, 50)

STILL = 1e-3
"""By how much two passes may differ, as a share of the spread of the logits, and count as the same."""

Status = Literal["pass", "warn", "fail", "skip"]
"""Of a check; "skip": there was nothing to test, which is no praise."""

NOBODY = "no image withstood, so there is nothing to test"
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
    """All checks of one defence under one norm, at the budget `epsilon` (L-infinity: a fraction);
    `results` are those of the evaluation, which must know white-box attacks on it. What does not depend on
    the norm is checked under L-infinity alone.
    """

    def __init__(
        self,
        judge: Judge,
        name: str,
        results: Sequence[Result],
        *,
        epsilon: float,
        draws: int,
        norm: Norm = "linf",
    ) -> None:
        self.judge, self.name, self.epsilon, self.norm = judge, name, epsilon, norm
        self.purifier = judge.defences[name]
        self.random = bool(getattr(self.purifier, "stochastic", False))
        self.draws = draws if self.random else 1
        self.results = [r for r in results if r.defence == name]
        self.bare = [r for r in results if r.defence == "none"]
        white = [
            r for r in self.results
            if self._is(r, "white-box") and r.threat_model and r.threat_model.norm == norm
        ]  # fmt: skip
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
        if self.norm == "l2":
            return [
                self.reported, self.modes, self.slow, self.steps, self.restarts, self.other_attackers,
                self.rounding,
            ]  # fmt: skip
        always = [
            self.clean_accuracy, self.gradients, self.reported, self.modes, self.slow, self.one_step,
            self.budgets, self.steps, self.restarts, self.other_attackers, self.gradient_free, self.asked,
            self.noise, self.randomness, self.planted, self.limits, self.rounding, self.warnings,
        ]  # fmt: skip
        if self.random:
            always += [self.expectation, self.frozen, self.redrawn]
        if isinstance(self.purifier, ComDefendPurifier) and self.purifier.dtype != torch.float32:
            always.append(self.precision)
        return always

    def clean_accuracy(self) -> Iterator[Check]:
        own = next(r for r in self.results if r.threat_model is None)
        lost = max((r.accuracy - own.accuracy for r in self.bare if r.threat_model is None), default=0.0)
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
        """The attacks that were asked for against PGD with all losses, on what they left standing, wherever
        it is, in every mode that the defence knows.
        """
        worst = self._worst()
        if worst is None:
            tried = any(self._is(r, "white-box") for r in self.results)
            yield self._line(
                "attacks asked for", "warn" if tried else "fail", "none under L-infinity at this budget",
                "what other norms and budgets gave was not checked" if tried else "nothing was measured",
            )  # fmt: skip
            return
        standing = self._standing(worst)
        better = []
        if self._found_more(self._pgd(restarts=6), self.mode, standing[:IMAGES], worst):
            better.append(f"PGD ({self.mode})")
        for mode in gradient_modes(self.purifier):
            if mode not in (*self.tried, ESTIMATED) and self._found_more(
                self._pgd(steps=10), mode, standing[:FEW_IMAGES], worst
            ):
                better.append(f"PGD ({mode}), which was not tried")
        looked = min(IMAGES, len(standing))
        yield self._line(
            "attacks asked for", "fail" if better else "pass" if standing else "skip",
            f"{worst.accuracy:.1%} left; "
            + (
                f"more broken by {', '.join(better)}" if better
                else f"PGD with six restarts breaks none or next to none of {looked} looked at" if standing
                else NOBODY
            ),
            "where the checks' own attack breaks what was reported to withstand, the attacks were too weak",
        )  # fmt: skip

    def modes(self) -> Iterator[Check]:
        """The gradient modes that went on to all images against all of them, on what both were tried on."""
        scans = {
            _mode(r): r.shares for r in self.results
            if r.attack == SCANS[self.norm].title and _mode(r) != ESTIMATED
        }  # fmt: skip
        kept = {
            _mode(r) for r in self.results
            if self._is(r, "white-box") and r.attack != SCANS[self.norm].title and r.threat_model
            and r.threat_model.norm == self.norm
        }  # fmt: skip
        if not scans or not kept & scans.keys():
            return
        together, ours = (
            float(torch.stack([s for m, s in scans.items() if m in among]).amin(0).mean())
            for among in (scans.keys(), kept)
        )
        count = len(next(iter(scans.values())))
        yield self._line(
            "gradient modes left out", "warn" if self._more(ours, together, count) else "pass",
            f"of {count} images {together:.1%} withstand all modes, {ours:.1%} those that went on",
            "what only a mode finds that was left out is missed among the other images",
        )  # fmt: skip

    def slow(self) -> Iterator[Check]:
        """What slow attacks add on the images that they were given: of the others it is not known."""
        worst = self._worst()
        if worst is None or worst.every is None:
            return
        count, left = worst.every
        quick = next(r for r in self.results if r.threat_model is None).shares[:count]
        for result in self.results:
            if self._at_budget(result) and result.attack != WORST and result.n >= worst.n:
                quick = torch.minimum(quick, result.shares[:count])
        before, after = float(quick.mean()), left / count
        yield self._line(
            "slow attacks", "fail" if self._more(before, after, count) else "pass",
            f"on the {count} images that they were given: {after:.1%} left, {before:.1%} without them",
            "what they break more is missed among the images that they were not given",
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
        full = next(r for r in self.results if r.threat_model is None).shares
        for result in white:
            full[: result.n] = torch.minimum(full[: result.n], result.shares)
        worse = []
        others = [r for r in at if r not in white]
        for result in others:
            left = float(full[: result.n].mean())
            if self._more(left, result.accuracy, result.n):
                worse.append(f"{result.attack} {result.via or _knowledge(result)} {result.accuracy:.1%}")
        figure = f"white-box {float(full.mean()):.1%}; "
        figure += f"better: {', '.join(worse)}" if worse else f"none of {len(others)} others is better"
        if not others:
            figure = "there are none: ask for black-box or gray-box ones too"
        yield self._line(
            "attackers who know less", "fail" if worse else "pass" if others else "warn", figure,
            "where queries or transferred images break more, the white-box attack was too weak",
        )  # fmt: skip

    def gradient_free(self) -> Iterator[Check]:
        """Square, which asks for logits alone, on what all attacks of an attacker who knows left standing."""
        name, meaning = (
            "gradient-free attack",
            "what queries find and gradients miss was hidden",
        )
        worst = self._worst()
        if worst is None:
            return
        rows = self._standing(worst)[:FEW_IMAGES]
        if not rows:
            yield self._line(name, "skip", NOBODY, meaning)
            return
        try:
            after = self._withstand(Square(asked=QUERIES), "autograd", rows)
        except MissingExtraError as error:
            yield self._line(name, "warn", str(error), meaning)
            return
        broken = float((worst.shares[rows] - after).clamp_min(0).sum())
        yield self._line(
            name, "fail" if broken > 1.5 else "warn" if broken > 0.5 else "pass",
            f"{broken:.3g} of {len(rows)} images that withstood, with {QUERIES} queries each", meaning,
        )  # fmt: skip

    def asked(self) -> Iterator[Check]:
        """Whether black-box attacks are strong enough to break a classifier that nothing defends."""
        found = [r for r in self.bare if self._is(r, "black-box") and self._at_budget(r)]
        if not found or not any(self._is(r, "black-box") for r in self.results):
            return
        clean = next(r for r in self.bare if r.threat_model is None).shares
        left = {f"{r.attack} {r.via}".strip(): r.accuracy / float(clean[: r.n].mean()) for r in found}
        weak = [name for name, share in left.items() if share > 0.25]
        yield self._line(
            "black-box attacks", "warn" if weak else "pass",
            ", ".join(f"{name} leaves {share:.0%}" for name, share in left.items())
            + " of the undefended classifier",
            "an attack that leaves much of what nothing defends says little of a defence",
        )  # fmt: skip

    def noise(self) -> Iterator[Check]:
        """Random corners of the budget, on what all attacks of an attacker who knows left standing."""
        worst = self._worst()
        if worst is None:
            return
        meaning = "noise of the size of the budget must not find what the attack missed"
        rows = self._standing(worst)[:FEW_IMAGES]
        if not rows:
            yield self._line("random noise", "skip", NOBODY, meaning)
            return
        broken = 0
        view = self._view(self.mode)
        for row in rows:
            image, label = self.judge.gather([row])
            for start in range(0, NOISE_DRAWS, 50):
                sign = torch.where(torch.rand(min(50, NOISE_DRAWS - start), *image.shape[1:]) < 0.5, -1, 1)
                draws = (image + self.epsilon * sign.to(image)).clamp(0, 1)
                wrong = draws[self.judge.predict(view, draws) != label]
                # Behind a random defence once is chance.
                if len(wrong) and bool((self.judge.shares(self.name, wrong[:1], label, row) < 0.5).all()):
                    broken += 1
                    break
        yield self._line(
            "random noise", "fail" if broken > (1 if self.random else 0) else "pass",
            f"{broken} of {len(rows)} images that withstood, in {NOISE_DRAWS} draws each", meaning,
        )  # fmt: skip

    def randomness(self) -> Iterator[Check]:
        with torch.no_grad():
            passes = [self.judge.classifier(self.purifier(self.images[:FEW_IMAGES])) for _ in range(5)]
        spread = max(float(passes[0].std()), 1e-12)
        apart = max(float((p - passes[0]).abs().max()) for p in passes) / spread
        hidden, claimed = apart > STILL and not self.random, apart <= STILL and self.random
        yield self._line(
            "randomness", "fail" if hidden or claimed else "pass",
            f"logits differ by up to {apart:.2g} of their spread in five passes",
            "it is random and does not say so (`stochastic`): no expectation was taken" if hidden
            else "it says that it is random and is not: it was spared attacks on deterministic defences"
            if claimed else "random, as it says" if self.random else "the same image gives the same answer",
        )  # fmt: skip

    def planted(self) -> Iterator[Check]:
        """A linear head that calls one corner of the budget adversarial and its neighbours
        harmless: an attack that works finds its way to the planted one.
        """
        layer = output_layer(self.judge.classifier, self.images[:2])
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

        def drawn(model: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
            with torch.random.fork_rng():
                torch.manual_seed(self.judge.seed)
                return model(at).detach()

        with torch.no_grad():
            own = drawn(lambda at: self.judge.classifier(self.purifier(at)), images)
        for mode in self.tried:
            # As an attack sees it: with gradients.
            logits = drawn(self._view(mode, draws=1), images.clone().requires_grad_(True))
            if not torch.allclose(logits, own, rtol=1e-2, atol=1e-2 * float(own.abs().max())):
                others.append(mode)
        yield self._line(
            "budget, range, logits", "fail" if others else "pass",
            f"{count} attacks" + (f"; not the defence itself: {', '.join(others)}" if others else ""),
            "every adversarial image lies within its budget and [0, 1], the classifier gives logits, and "
            "every gradient mode attacks the defence itself",
        )  # fmt: skip

    def rounding(self) -> Iterator[Check]:
        """The worst case over white-box attacks before and after their images are stored as 8 bits."""
        measured = [
            r for r in self.results
            if self._is(r, "white-box") and self._at_budget(r) and r.rounded is not None
        ]  # fmt: skip
        count = max((r.n for r in measured), default=0)
        shares = [(r.shares, r.rounded_shares) for r in measured if r.n == count]
        if not shares:
            return
        before, after = (float(torch.stack(part).amin(0).mean()) for part in zip(*shares, strict=True))
        yield self._line(
            "stored as 8 bits", "warn" if self._more(after, before + POINT, count) else "pass",
            f"{before:.1%} before, {after:.1%} after rounding, over {len(shares)} attacks on {count} images",
            "adversarial images that are kept as PNG",
        )  # fmt: skip

    def warnings(self) -> Iterator[Check]:
        said = dict.fromkeys(flag for r in self.results for flag in r.flags)
        yield self._line(
            "warnings of the attacks", "warn" if said else "pass", "; ".join(said) or "none",
            "what AutoAttack says of itself: zero gradients, random answers, queries that beat gradients",
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
        worst = self._worst()
        if worst is None or worst.repeats is None:
            return
        drawn = worst.repeats
        yield self._line(
            "judged again", "warn" if drawn.mean - drawn.worst > 10 * POINT else "pass",
            f"mean {drawn.mean:.1%}, majority {drawn.majority:.1%}, worst {drawn.worst:.1%} "
            f"of {drawn.draws} draws, after all attacks",
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

    def _worst(self) -> Result | None:
        """The worst case at the checks' budget for an attacker who knows the defence."""
        found = (r for r in worst_cases(self.results) if self._is(r, "white-box") and self._at_budget(r))
        return next(found, None)

    def _standing(self, worst: Result) -> list[int]:
        """The places of the images that withstood, wherever they are."""
        found: list[int] = torch.nonzero(worst.shares > 0)[:, 0].tolist()
        return found

    def _found_more(self, attack: Attack, mode: str, rows: list[int], worst: Result) -> bool:
        """Whether an attack breaks so many of some images that withstood that it would be a point of all."""
        if not rows:
            return False
        before = worst.shares[rows]
        broken = float((before - self._withstand(attack, mode, rows)).clamp_min(0).sum())
        return self._more(broken / len(rows) * len(self._standing(worst)) / worst.n, 0, worst.n)

    def _withstand(self, attack: Attack, mode: str, rows: list[int]) -> Tensor:
        """The share of draws in which the images at some places withstand one attack."""
        situation = Situation(
            self._view(mode), (self.name,), attack, ThreatModel(self.norm, self.epsilon, "white-box")
        )
        found = []
        for start in range(0, len(rows), self.judge.batch):
            part = rows[start : start + self.judge.batch]
            images, labels = self.judge.gather(part)
            at = self.judge.attack(situation, images, labels, part[0])
            found.append(self.judge.shares(self.name, at, labels, part[0]))
        return torch.cat(found)

    def _pgd(self, *, steps: int = 20, restarts: int = 1) -> PGD:
        """The margin first, which no saturated probability can stop."""
        kind = PGDL2 if self.norm == "l2" else PGD
        return kind(
            steps=steps, step=0.125, restarts=restarts, losses=("margin", "cross-entropy", "dlr"),
            early=not self.random,
        )  # fmt: skip

    def _view(self, mode: str, draws: int | None = None) -> AdaptiveView:
        return AdaptiveView(self.judge.classifier, self.purifier, mode=mode, draws=draws or self.draws)

    def _accuracy(
        self, attack: Attack, epsilon: float, *, draws: int | None = None, few: bool = False
    ) -> float:
        """What one white-box attack through the best mode leaves of the check's images."""
        return float(self._mask(attack, epsilon, draws=draws, few=few).mean())

    def _mask(self, attack: Attack, epsilon: float, *, draws: int | None = None, few: bool = False) -> Tensor:
        """How the check's images withstand one white-box attack through the best mode, N shares of draws.
        Several checks look at the same one.
        """
        limit = FEW_IMAGES if few else IMAGES
        key = (attack, epsilon, draws, limit)
        if key not in self.standing:
            threat = ThreatModel(self.norm, epsilon, "white-box")
            situation = Situation(self._view(self.mode, draws), (self.name,), attack, threat, limit=limit)
            self.standing[key] = self.judge.run(situation).shares(self.name)
        return self.standing[key]

    def _more(self, one: float, other: float, images: int = 0) -> bool:
        """Whether one accuracy exceeds another by more than a point, and by more than one image."""
        count = images or len(self.images)
        return one - other > max(POINT, 1.5 / count) + (2 * POINT if self.random else 0)

    def _is(self, result: Result, knowledge: str) -> bool:
        return result.threat_model is not None and result.threat_model.knowledge == knowledge

    def _at_budget(self, result: Result) -> bool:
        threat = result.threat_model
        if threat is None or threat.norm != self.norm or threat.epsilon is None:
            return False
        return abs(threat.epsilon - self.epsilon) < 1e-9

    def _line(self, name: str, status: Status, figure: str, meaning: str, *, curve: Curve = ()) -> Check:
        named = f"{name} (L2)" if self.norm == "l2" else name
        return Check(
            self.name, named, status, figure, meaning, curve=curve, images=len(self.images) if curve else 0
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
