"""PSNR of purified clean images, whole test splits: the weights that ship and the authors'.

Needs the shared data (COMDEFEND_SHARED). Minutes on two cores.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comdefend import provenance, zoo
from comdefend.atomic import write_json
from comdefend.data import load_data
from comdefend.evaluation.reconstruction import reconstruction
from comdefend.model import ComDefendConfig
from comdefend.purifiers import load_comdefend
from experiments.experiment import Experiment, in_turn
from experiments.markdown import decibel, origin, table_of
from experiments.resources import OFFICIAL, official

FILE = Path(__file__).parent / "results" / "reconstruction.json"

PAPER_PSNR = "31.78"
"""The paper's PSNR at 12 bits (Table 3), on lossless CIFAR-10; ../shared has quality-75 JPEGs of it."""


def measure(_: str) -> None:
    """Measure the authors' weights; ours are in the zoo's facts."""
    entries = []
    for name in zoo.names("purifier"):
        facts = zoo.facts(name)
        entries.append(
            {
                "data": facts.data,
                "weights": "comdefend" if name == facts.data else name,
                "bits": ComDefendConfig(**facts.architecture).rate,
                "psnr": facts.scores["test_psnr"],
                "interval": facts.scores["interval"],
                "images": facts.scores["images"],
                "measured": facts.scores["measured"],
            }
        )
        if name in OFFICIAL:
            purifier = load_comdefend(official(name))
            psnr = reconstruction(purifier, load_data(name, split="test"))
            bits = purifier.model.config.bits
            entries.append({"data": name, "weights": "authors", "bits": bits, **asdict(psnr)})
    write_json(FILE, {"entries": entries, "seed": 0, **provenance.made()})


def table() -> str:
    """A row for each of our purifiers, the authors' weights beside the paper's network."""
    content = json.loads(FILE.read_text())
    heads = ("data", "bits a pixel", "images", "comdefend", "the authors' weights", "the paper (Table 3)")
    by_data: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in content["entries"]:
        by_data.setdefault(entry["data"], {})[entry["weights"]] = entry
    lines = []
    for data, by_weights in by_data.items():
        authors = by_weights.pop("authors", None)
        for name, ours in by_weights.items():
            usual = name == "comdefend"  # the paper's network; the others have names of their own
            lines.append(
                (
                    data if usual else f"{data} (`{name}`)",
                    f"{ours['bits']:g}",
                    str(ours["images"]),
                    f"**{decibel(ours)}**",
                    decibel(authors) if usual and authors else "-",
                    PAPER_PSNR if usual and data == "cifar10" else "-",
                )
            )
    title = (
        "Clean images through the purifier, hard code, mean PSNR over the test images that were available "
        "(95 % interval):"
    )
    return "\n".join([title, "", *table_of(heads, lines), "", origin(content)])


EXPERIMENT = Experiment(
    parts=["weights"],
    run=in_turn(measure),
    done=lambda _: FILE.is_file(),
    tables={"weights": table},
)
