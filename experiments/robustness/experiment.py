"""Every defence against every attacker: one `comdefend evaluate` for each part.

An interrupted evaluation continues, also in another checkout: what is done of it is kept in its folder's
parts.json and checks-parts.json, which are committed until it is complete, and say what the rest is computed
in and in batches of which size; in the same checkout also within an attack. With another version of torch or
of the attacks, as without these files, it begins anew.
Needs the shared data and the authors' weights (COMDEFEND_SHARED), and, where a classifier's weights do not
ship, what `comdefend train RECIPE` leaves. Hours on two cores; COMDEFEND_DEVICE=cuda makes minutes of them,
and with COMDEFEND_JOBS=16 their attacks go side by side, which a GPU has room for.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from comdefend import zoo
from comdefend.cli import main as comdefend
from comdefend.device import fast_dtype
from comdefend.evaluation import Result, keep_results, kept_results
from comdefend.evaluation.report import PARTS, RESULTS
from comdefend.evaluation.tables import label
from comdefend.evaluation.worst_case import FEW
from experiments.experiment import Experiment
from experiments.resources import BUILD, DEVICE, EOT_SAMPLES, ROOT, official
from experiments.robustness import tables

FOLDER = Path(__file__).parent / "results"

JOBS = int(os.environ.get("COMDEFEND_JOBS", "1"))
"""How many processes go side by side."""

COMMAND = "import sys; from comdefend.cli import main; sys.exit(main(sys.argv[1:]))"
"""The command line in a process of its own, wherever comdefend comes from."""

RIVALS = ("jpeg", "feature-squeezing")

RANDOM = ("resize-pad",)
"""By themselves: each gradient and each verdict takes many draws."""

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
    slow_limit: int = FEW
    """Images for slow attacks: more where these decide what is said."""

    @property
    def heading(self) -> str:
        """The title of its page."""
        names = [label(defence) for defence in self.defences if defence != "none"]
        return ": ".join([self.title, *([", ".join(names)] if names else [])])

    def words(self, output: Path, *, examples: int = 4) -> list[str]:
        """The command's arguments; `examples` are in each picture."""
        begun = begun_with(output)
        chosen = {
            "classifier": weights_of(self.classifier), "data": self.kind, "attacks": self.attacks,
            "epsilons": str(self.epsilon), "knowledge": self.knowledge, "limit": str(LIMIT),
            "slow-limit": str(self.slow_limit),
            # bfloat16 is checked against float32 by the evaluation itself.
            "dtype": begun.get("dtype") or fast_dtype(DEVICE), "draws": str(EOT_SAMPLES),
            "examples": str(examples), "device": DEVICE, "output": str(output),
        }  # fmt: skip
        if batch := begun.get("batch", "" if DEVICE == "cpu" else str(LARGE)):
            chosen["batch"] = batch
        words = ["evaluate", "--resume"]
        for key, value in chosen.items():
            words += [f"--{key}", value]
        for defence in self.defences:
            words += ["--defences", defence]
        if "gray-box" in self.knowledge:
            words += ["--stand-ins", f"comdefend:weights={official(self.kind)}"]
        return words

    def parts(self) -> dict[str, "Evaluation"]:
        """Evaluations that can go side by side and together make the same attacks; those through one defence
        make the ones on the bare classifier, too. Only the checks are missing then.
        """
        attacks = self.attacks.split(",")
        asking = [attack for attack in attacks if attack.startswith(("square", "hopskipjump"))]
        found = {}
        for number, defence in enumerate(self.defences):
            for norm in ("linf", "l2"):  # together: the quick attacks say which mode slow ones take
                some = [a for a in attacks if a not in asking and (norm == "l2") == ("-l2" in a)]
                found[f"white-box-{number}-{norm}"] = replace(
                    self, defences=(defence,), knowledge="white-box", attacks=",".join(some)
                )
        if "gray-box" in self.knowledge:
            most = ",".join(attack for attack in attacks if attack != "hopskipjump")
            found["gray-box"] = replace(self, knowledge="gray-box,black-box", attacks=most)
            asking = ["hopskipjump"]
        found["black-box"] = replace(self, knowledge="black-box", attacks=",".join(asking))
        return found


def weights_of(recipe: str) -> str:
    """The name of weights that ship, and otherwise the place where their recipe leaves them."""
    return recipe if recipe in zoo.names("classifier") else f"runs/{recipe}/weights.safetensors"


def made_so_far(folder: Path) -> list[Result]:
    """The results of an evaluation, finished or not, without the worst cases, which follow from them."""
    made = [result for name in (RESULTS, PARTS) for result in kept_results(folder / name)]
    return [result for result in made if result.fingerprint]


def begun_with(folder: Path) -> dict[str, str]:
    """What an evaluation of which there is a part goes on with, wherever it goes on: how many images at a
    time, and what its purifiers compute in, where that is known.
    """
    found = {}
    for result in made_so_far(folder):
        found["batch"] = str(result.batch)
        if "dtype" in result.defence_settings:
            found["dtype"] = str(result.defence_settings["dtype"])
    return found


ADVERSARIAL = {
    "cifar10": "cifar10-resnet9-adversarial",
    "fashion-mnist": "fashion-mnist-resnet9-adversarial",
}
"""Adversarial training, by data."""

SLOW = {"cifar10": 300, "fashion-mnist": FEW}
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


def side_by_side(names: Sequence[str]) -> None:
    """The attacks of several evaluations, `JOBS` at a time; what they find is in each parts.json then."""

    def run(place: Path, words: Sequence[str]) -> None:
        with place.with_suffix(".log").open("w") as log:
            command = [sys.executable, "-c", COMMAND, *words, "--no-checks"]
            code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        print(f"{place.parent.name}: {place.name}: {'done' if code == 0 else f'see {log.name}'}")

    places = []
    with ThreadPoolExecutor(JOBS) as pool:
        for name in names:
            for part, evaluation in EVALUATIONS[name].parts().items():
                place = BUILD / "robustness" / name / part
                place.mkdir(parents=True, exist_ok=True)
                keep_results(place / PARTS, made_so_far(FOLDER / name))
                pool.submit(run, place, evaluation.words(place.relative_to(ROOT), examples=0))
                places.append(place)
    for place in places:
        folder = FOLDER / place.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        keep_results(folder / PARTS, made_so_far(place))


def finished(name: str) -> bool:
    """Whether an evaluation was made to its end, and not begun again."""
    return (FOLDER / name / RESULTS).is_file() and not (FOLDER / name / PARTS).is_file()


def evaluate(name: str) -> int:
    """Run one evaluation to its end; return what the command exits with."""
    folder = FOLDER / name
    code = comdefend(EVALUATIONS[name].words(folder.relative_to(ROOT)))
    for picture in (*folder.glob("examples*.png"), folder / "accuracy.png"):
        picture.unlink(missing_ok=True)  # they are in report.html
    return code


def evaluate_elsewhere(name: str) -> int:
    """The same in a process of its own, beside others."""
    alone = {**os.environ, "COMDEFEND_JOBS": "1"}
    command = [sys.executable, "-m", "experiments", "run", "robustness", name]
    return subprocess.run(command, env=alone, cwd=ROOT, check=False).returncode


def run(names: Sequence[str]) -> None:
    """Run evaluations, side by side where there are `JOBS`."""
    if JOBS > 1:
        side_by_side(names)
        with ThreadPoolExecutor(JOBS) as pool:
            sys.exit(max(pool.map(evaluate_elsewhere, names), default=0))
    for name in names:
        if evaluate(name):
            sys.exit(1)


def page(name: str) -> str:
    """The template of one evaluation's page."""
    places = f"<!-- tables: robustness/{name} -->"
    note = "What the words and the columns mean: [how robust is it, really?](../robustness.md)"
    return f"# {EVALUATIONS[name].heading}\n\n{note}\n\n{places}\n"


TITLES = {name: evaluation.title for name, evaluation in EVALUATIONS.items()}

EXPERIMENT = Experiment(
    parts=list(EVALUATIONS),
    run=run,
    done=finished,
    tables={
        "summary": lambda: tables.summary(FOLDER, TITLES),
        "gains": lambda: tables.gains(FOLDER, TITLES),
        "rounding": lambda: tables.rounding(FOLDER),
        "evaluations": lambda: "\n".join(
            f"- [{evaluation.heading}](robustness/{name}.md)" for name, evaluation in EVALUATIONS.items()
        ),
        **{name: partial(tables.evaluation, FOLDER, name) for name in EVALUATIONS},
    },
    pages={name: page(name) for name in EVALUATIONS},
)
