"""The evaluations behind docs/robustness.md, into docs/results/robustness/NAME/.

    python benchmarks/robustness.py [NAME ...]      (by default all that are missing)

Each is one `comdefend evaluate`; interrupted, it goes on where it was, also in another checkout: what is done
of it is kept in its folder's parts.json and checks-parts.json, which are committed until it is whole, and say
what the rest is computed in and in batches of which size; in the same checkout also within an attack. With
another version of torch or of the attacks, as without these files, it begins anew.
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
from pathlib import Path

from comdefend import zoo
from comdefend.cli import main as comdefend
from comdefend.device import fast_dtype
from comdefend.evaluation import Result, keep_results, kept_results
from comdefend.evaluation.report import PARTS, RESULTS
from comdefend.evaluation.worst_case import FEW

sys.path.insert(0, str(Path(__file__).parent))
from measure import BUILD, DEVICE, DRAWS, ROOT, asked_for, official

FOLDER = ROOT / "docs" / "results" / "robustness"

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
    """One classifier with its defences. `kind` is the data set, `epsilon` in units of 1/255; `slow_limit`
    images are for slow attacks: more where these decide what is said.
    """

    kind: str
    classifier: str
    defences: tuple[str, ...]
    epsilon: int
    attacks: str = ATTACKS
    knowledge: str = "gray-box,white-box,black-box"
    sources: tuple[str, ...] = ()
    slow_limit: int = FEW

    def words(self, output: Path, *, examples: int = 4) -> list[str]:
        """The command's arguments; `examples` are in each picture."""
        begun = begun_with(output)
        chosen = {
            "classifier": weights_of(self.classifier), "data": self.kind, "attacks": self.attacks,
            "epsilons": str(self.epsilon), "knowledge": self.knowledge, "limit": str(LIMIT),
            "slow-limit": str(self.slow_limit),
            # bfloat16 is checked against float32 by the evaluation itself.
            "dtype": begun.get("dtype") or fast_dtype(DEVICE), "draws": str(DRAWS),
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
            for source in self.sources:
                words += ["--sources", source]
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


def _of(kind: str, epsilon: int, others: Mapping[str, str] | None = None) -> dict[str, Evaluation]:
    """ComDefend and other purifiers before a classifier trained on clean images (`others` are those of this
    data alone), ComDefend before one trained on purified ones, and adversarial training, for which gray-box
    and white-box are the same.
    """
    plain = f"{kind}-resnet9-plain"
    return {
        kind: Evaluation(kind, plain, ("comdefend",), epsilon),
        f"{kind}-rivals": Evaluation(kind, plain, RIVALS, epsilon),
        **{
            f"{kind}-{name}": Evaluation(kind, plain, (defence,), epsilon)
            for name, defence in (others or {}).items()
        },
        f"{kind}-random": Evaluation(kind, plain, RANDOM, epsilon),
        f"{kind}-purified": Evaluation(kind, f"{kind}-resnet9-purified", ("comdefend",), epsilon),
        f"{kind}-adversarial": Evaluation(
            kind,
            ADVERSARIAL[kind],
            ("none",),
            epsilon,
            knowledge="white-box,black-box",
            slow_limit=SLOW[kind],
        ),
    }


EVALUATIONS = {
    # The images of CIFAR-10 were JPEGs before.
    **_of("cifar10", 8, {"shifted-jpeg": "benchmarks/shifted_jpeg.py:ShiftedJPEG"}),
    # A classifier that took no part in its training.
    "cifar10-guided": Evaluation("cifar10", "cifar10-resnet9", ("comdefend:weights=cifar10-guided",), 8),
    **_of("fashion-mnist", 25),
}  # fmt: skip


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
    """One evaluation, from where it is to its end; what the command exits with."""
    folder = FOLDER / name
    code = comdefend(EVALUATIONS[name].words(folder.relative_to(ROOT)))
    for picture in (*folder.glob("examples*.png"), folder / "accuracy.png"):
        picture.unlink(missing_ok=True)  # they are in report.html
    return code


def evaluate_elsewhere(name: str) -> int:
    """The same in a process of its own, beside others."""
    alone = {**os.environ, "COMDEFEND_JOBS": "1"}
    return subprocess.run([sys.executable, __file__, name], env=alone, check=False).returncode


if __name__ == "__main__":
    os.chdir(ROOT)
    asked = asked_for(EVALUATIONS, finished)
    if JOBS > 1:
        side_by_side(asked)
        with ThreadPoolExecutor(JOBS) as pool:
            sys.exit(max(pool.map(evaluate_elsewhere, asked), default=0))
    for name in asked:
        if evaluate(name):
            sys.exit(1)
