"""Every defence against every attacker: one `comdefend evaluate` for each part.

An interrupted evaluation continues, also in another checkout: what is done of it is kept in its folder's
finished.jsonl, which is committed until it is complete, and says what the rest is computed in and in batches
of which size; in the same checkout also within an attack.
Needs the shared data and the authors' weights (COMDEFEND_SHARED), and, where a classifier's weights do not
ship, what `comdefend train RECIPE` leaves. Hours on two cores; COMDEFEND_DEVICE=cuda makes minutes of them,
and with COMDEFEND_JOBS=16 their attacks go side by side, which a GPU has room for.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from comdefend.cli import main as comdefend
from comdefend.evaluation import Store
from comdefend.evaluation.store import FINISHED, RESULTS
from experiments.experiment import Experiment
from experiments.resources import BUILD, ROOT
from experiments.robustness import tables
from experiments.robustness.evaluations import EVALUATIONS, results_so_far

FOLDER = Path(__file__).parent / "results"

JOBS = int(os.environ.get("COMDEFEND_JOBS", "1"))
"""How many processes go side by side."""

COMMAND = "import sys; from comdefend.cli import main; sys.exit(main(sys.argv[1:]))"
"""The command line in a process of its own, wherever comdefend comes from."""


def side_by_side(names: Sequence[str]) -> None:
    """Make the attacks of several evaluations, `JOBS` at a time; leave the results in each finished.jsonl."""

    def run(output: Path, words: Sequence[str]) -> None:
        with output.with_suffix(".log").open("w") as log:
            command = [sys.executable, "-c", COMMAND, *words, "--no-checks"]
            code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        print(f"{output.parent.name}: {output.name}: {'done' if code == 0 else f'see {log.name}'}")

    outputs = []
    with ThreadPoolExecutor(JOBS) as pool:
        for name in names:
            for job, evaluation in EVALUATIONS[name].jobs().items():
                output = BUILD / "robustness" / name / job
                output.mkdir(parents=True, exist_ok=True)
                Store(output).keep(results_so_far(FOLDER / name))
                pool.submit(run, output, evaluation.words(output.relative_to(ROOT), examples=0))
                outputs.append(output)
    for output in outputs:
        folder = FOLDER / output.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        Store(folder).keep(results_so_far(output))


def finished(name: str) -> bool:
    """Whether an evaluation is complete, and was not begun again."""
    return (FOLDER / name / RESULTS).is_file() and not (FOLDER / name / FINISHED).is_file()


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
    note = "What the words and the columns mean: [how robust is it, really?](../robustness.md)"
    return f"# {EVALUATIONS[name].heading}\n\n{note}\n\n<!-- tables: robustness/{name} -->\n"


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
