"""The purifier `cifar10-guided` in front of frozen classifiers, and what each part of its training is worth.

First the classifiers that took no part in its training and, to compare, one that did, each alone, behind this
purifier and behind others, on test images that were not looked at when its settings were chosen. Then, under
the name "parts", the recipe shortened, with one thing changed, before the first classifier at 8/255, all of
them under the same attacks. Trainings are kept in runs/untouched/. Needs the shared classifiers
(COMDEFEND_SHARED), and what `comdefend train cifar10-vgg-plain` and `comdefend train cifar10-resnet20-plain`
leave. With one thread half an hour a classifier and more before large ones, an hour for the parts, three
where it does not compute in bfloat16.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comdefend import zoo
from comdefend.data import ImageSet, load_data
from comdefend.paper.trainings import run_folder
from comdefend.training import Recipe, load_recipe
from experiments.attackers import (
    OWN,
    ROBUST,
    attack_with_all,
    facts_of,
    read_facts,
    trained,
    write_complete,
)
from experiments.experiment import Experiment, in_turn
from experiments.guided import tables
from experiments.resources import THIRD_PARTY

RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs/untouched")
"""The facts of the results name it."""

RECIPE = "cifar10-guided"
PURIFIERS = ("comdefend", "jpeg", f"comdefend:weights={RECIPE}")
IMAGES = 1000
"""For attackers who do not know the purifier."""


@dataclass(frozen=True)
class Target:
    """A frozen classifier: what the table calls it, and its reference."""

    title: str
    reference: str


TARGETS = {
    "resnet20": Target("ResNet-20, not ours", THIRD_PARTY),
    "resnet32": Target("ResNet-32, not ours", THIRD_PARTY.replace("resnet20", "resnet32")),
    "vgg": Target("a VGG of ours, no guide", "runs/cifar10-vgg-plain/weights.safetensors"),
    "resnet20-ours": Target(
        "a ResNet-20 of ours, no guide", "runs/cifar10-resnet20-plain/weights.safetensors"
    ),
    "resnet9-wide": Target("a wider ResNet-9 of ours, no guide", "cifar10-resnet9"),
    "resnet9-guide": Target("a ResNet-9 of ours, a guide", OWN),
}
"""By the name of their results, in the order of the table."""

CHOSEN_ON = 300
"""So many test images, drawn with seed 0, were purified and classified while the settings were chosen."""


@dataclass(frozen=True)
class Change:
    """A training with one thing changed: what the table calls it, and the purifier's settings that differ."""

    title: str
    settings: dict[str, str] = field(default_factory=dict)


CHANGES = {
    "whole": Change("nothing"),
    "pixels": Change(
        "no guides: pixels alone", {"guides": "[]", "guidance": "0", "matching": "0", "guide_noise": "0"}
    ),
    "logits": Change("of the guides the logits alone", {"matching": "0"}),
    "features": Change("of the guides the features alone", {"guidance": "0"}),
    "one-guide": Change("one guide", {"guides": f"[{OWN}]"}),
    "no-guide-noise": Change("no noise on what guides are shown", {"guide_noise": "0"}),
    "white-noise": Change("noise of each value for itself", {"noise_octaves": "0"}),
    "no-noise": Change("no noise on what is compressed", {"noise": "0", "noise_octaves": "0"}),
}
"""By the name of their results, in the order of the table."""

ALL_CHANGES = "parts"

STEPS = 1000
"""Of a training with a change."""

EPSILON = 8 / 255
"""At which these are attacked."""


def unseen() -> ImageSet:
    """The test images but for those `CHOSEN_ON`. A thousand more were looked at when one of three trainings
    was chosen; none of them is among the `IMAGES` that are drawn of these with seed 0.
    """
    images = load_data("cifar10")
    looked_at = set(images.pick(CHOSEN_ON, seed=0))
    return images.subset([row for row in range(len(images)) if row not in looked_at])


def recipe_of(name: str) -> Recipe:
    """The recipe of a training with a change; nothing is trained."""
    settings = [f"purifier.{key}={value}" for key, value in CHANGES[name].settings.items()]
    return load_recipe(RECIPE, [f"steps={STEPS}", f"interval={STEPS}", *settings])


def measure(part: str) -> None:
    """One classifier, or all changes: every attacker on it."""
    if part == ALL_CHANGES:
        measure_changes()
        return
    file, data, target = RESULTS / f"{part}.json", unseen(), TARGETS[part].reference
    sources = [source for source in (OWN, ROBUST, THIRD_PARTY) if source != target]
    results = attack_with_all(target, *PURIFIERS, sources=sources, file=file, data=data, images=IMAGES)
    write_complete(file, results, _facts(part, PURIFIERS[-1], data))


def measure_changes() -> None:
    """All changes at once, since who does not know the purifier attacks the bare classifier once for all.

    Who knows it leaves nothing of the whole, so that there is nothing to compare.
    """
    purifiers = {name: f"comdefend:weights={trained(recipe_of(name), RUNS / name)}" for name in CHANGES}
    data = unseen()
    results = attack_with_all(
        THIRD_PARTY, *purifiers.values(), sources=(OWN, ROBUST), file=RUNS / f"{ALL_CHANGES}.json", data=data,
        images=IMAGES, epsilons=[EPSILON], epsilon=None,
    )  # fmt: skip
    for name, purifier in purifiers.items():
        own = [r for r in results if r.defence in ("none", purifier)]
        write_complete(RESULTS / f"{name}.json", own, _facts(name, purifier, data))


def _facts(name: str, purifier: str, data: ImageSet) -> dict[str, Any]:
    return {**facts_of(purifier, data), "made_of": made_of(name)}


def made_of(name: str) -> str:
    """What tells whether results are of today's purifier: the weights that ship, or the run of a change."""
    return str(run_folder(recipe_of(name), RUNS / name)) if name in CHANGES else zoo.facts(RECIPE).sha256


def done(part: str) -> bool:
    """Whether a part is complete, with the weights and settings that there are now."""
    names = CHANGES if part == ALL_CHANGES else [part]
    return all((read_facts(RESULTS / f"{name}.json") or {}).get("made_of") == made_of(name) for name in names)


EXPERIMENT = Experiment(
    parts=[*TARGETS, ALL_CHANGES],
    run=in_turn(measure),
    done=done,
    tables={
        "classifiers": lambda: tables.classifiers(
            RESULTS, {name: target.title for name, target in TARGETS.items()}
        ),
        "parts": lambda: tables.parts(RESULTS, {name: change.title for name, change in CHANGES.items()}),
    },
)
