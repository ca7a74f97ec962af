"""What each evaluation asks: a classifier, its defences, the attacks and their budgets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from comdefend import zoo
from comdefend.device import fast_dtype
from comdefend.evaluation import Result, Store
from comdefend.evaluation.spec import MIN_SLOW
from comdefend.evaluation.tables import label
from experiments.resources import DEVICE, EOT_SAMPLES, official

RIVALS = ("jpeg", "feature-squeezing")

RANDOM = ("resize-pad",)
"""By themselves: each gradient and each verdict takes many samples."""

LIMIT = 1000
"""Images of an evaluation."""

LARGE = 500
"""Images at a time on a GPU, which a hundred small ones do not fill."""

# PGD converges more slowly under L2. Square takes 2,000 queries instead of 5,000: through ComDefend each is
# a hundredth of a second and more.
ATTACKS = "fgsm,pgd,pgd-l2:steps=40,autoattack,square:queries=2000,hopskipjump,autoattack-l2"


@dataclass(frozen=True)
class Evaluation:
    """One classifier with its defences."""

    title: str
    """Of its rows: data and classifier."""
    kind: str
    """The data set."""
    classifier: str
    defences: tuple[str, ...]
    epsilon: int
    """In units of 1/255."""
    attacks: str = ATTACKS
    knowledge: str = "gray-box,white-box,black-box"
    slow_limit: int = MIN_SLOW
    """Images for slow attacks: more where these decide what is said."""

    @property
    def heading(self) -> str:
        """The title of its page."""
        names = [label(defence) for defence in self.defences if defence != "none"]
        return ": ".join([self.title, *([", ".join(names)] if names else [])])

    def words(self, output: Path, *, examples: int = 4) -> list[str]:
        """The words of the command that writes to a folder; `examples` images are in each picture."""
        kept = options_so_far(output)
        options = {
            "classifier": weights_of(self.classifier), "data": self.kind, "attacks": self.attacks,
            "epsilons": str(self.epsilon), "knowledge": self.knowledge, "limit": str(LIMIT),
            "slow-limit": str(self.slow_limit),
            # bfloat16 is checked against float32 by the evaluation itself.
            "dtype": kept.get("dtype") or fast_dtype(DEVICE), "eot-samples": str(EOT_SAMPLES),
            "examples": str(examples), "device": DEVICE, "output": str(output),
        }  # fmt: skip
        if batch := kept.get("batch", "" if DEVICE == "cpu" else str(LARGE)):
            options["batch"] = batch
        words = ["evaluate", "--resume"]
        for key, value in options.items():
            words += [f"--{key}", value]
        for defence in self.defences:
            words += ["--defences", defence]
        if "gray-box" in self.knowledge:
            words += ["--surrogate-purifiers", f"comdefend:weights={official(self.kind)}"]
        return words

    def jobs(self) -> dict[str, "Evaluation"]:
        """Split the evaluation into ones that can run side by side and together make the same attacks.

        Those through one defence make the attacks on the bare classifier, too. Checks are left to the whole.
        """
        attacks = self.attacks.split(",")
        queries = [attack for attack in attacks if attack.startswith(("square", "hopskipjump"))]
        jobs = {}
        for number, defence in enumerate(self.defences):
            for norm in ("linf", "l2"):  # together: one trial chooses the modes of all
                of_norm = [a for a in attacks if a not in queries and (norm == "l2") == ("-l2" in a)]
                jobs[f"white-box-{number}-{norm}"] = replace(
                    self, defences=(defence,), knowledge="white-box", attacks=",".join(of_norm)
                )
        if "gray-box" in self.knowledge:
            but_one = ",".join(attack for attack in attacks if attack != "hopskipjump")
            jobs["gray-box"] = replace(self, knowledge="gray-box,black-box", attacks=but_one)
            queries = ["hopskipjump"]
        jobs["black-box"] = replace(self, knowledge="black-box", attacks=",".join(queries))
        return jobs


def weights_of(recipe: str) -> str:
    """Return the name of weights that ship, and otherwise the path where their recipe leaves them."""
    return recipe if recipe in zoo.names("classifier") else f"runs/{recipe}/weights.safetensors"


def results_so_far(folder: Path) -> list[Result]:
    """The results of an evaluation, complete or not, without the worst cases, which follow from them."""
    return Store(folder).results()


def options_so_far(folder: Path) -> dict[str, str]:
    """Options that an interrupted evaluation continues with on any machine, by their name.

    They are how many images go at a time and what its purifiers compute in, where that is known.
    """
    options = {}
    for result in results_so_far(folder):
        options["batch"] = str(result.batch)
        if "dtype" in result.defence_settings:
            options["dtype"] = str(result.defence_settings["dtype"])
    return options


ADVERSARIAL = {
    "cifar10": "cifar10-resnet9-adversarial",
    "fashion-mnist": "fashion-mnist-resnet9-adversarial",
}
"""Adversarial training, by data."""

SLOW = {"cifar10": 300, "fashion-mnist": MIN_SLOW}
"""Images for slow attacks, by data, on what was trained under attack: AutoAttack leaves less than PGD."""


def _of(kind: str, name: str, epsilon: int, others: Mapping[str, str] | None = None) -> dict[str, Evaluation]:
    """ComDefend and other purifiers before a classifier trained on clean images (`others` are those of this
    data alone), ComDefend before one trained on purified ones, and adversarial training, for which gray-box
    and white-box are the same.
    """
    clean = partial(
        Evaluation, f"{name}, classifier trained on clean images", kind, f"{kind}-resnet9-plain",
        epsilon=epsilon,
    )  # fmt: skip
    return {
        kind: clean(("comdefend",)),
        f"{kind}-rivals": clean(RIVALS),
        **{f"{kind}-{part}": clean((defence,)) for part, defence in (others or {}).items()},
        f"{kind}-random": clean(RANDOM),
        f"{kind}-purified": Evaluation(
            f"{name}, classifier trained on purified images", kind, f"{kind}-resnet9-purified",
            ("comdefend",), epsilon,
        ),
        f"{kind}-adversarial": Evaluation(
            f"{name}, adversarial training", kind, ADVERSARIAL[kind], ("none",), epsilon,
            knowledge="white-box,black-box", slow_limit=SLOW[kind],
        ),
    }  # fmt: skip


EVALUATIONS = {
    # The images of CIFAR-10 were JPEGs before.
    **_of("cifar10", "CIFAR-10", 8, {"shifted-jpeg": "experiments/robustness/shifted_jpeg.py:ShiftedJPEG"}),
    # A classifier that took no part in its training.
    "cifar10-guided": Evaluation(
        "CIFAR-10, the guided purifier before a wider classifier", "cifar10", "cifar10-resnet9",
        ("comdefend:weights=cifar10-guided",), 8,
    ),
    **_of("fashion-mnist", "Fashion-MNIST", 25),
}  # fmt: skip
"""By the name of their results and pages, in the order of the tables."""
