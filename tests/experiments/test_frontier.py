"""The frontier: its table and figure, of points that may not have been run yet."""

from pathlib import Path

from experiments.frontier.tables import draw, table
from tests.experiments.records import PROVENANCE, everything, keep


def test_the_frontier_has_a_line_and_marks_for_each_point(tmp_path: Path) -> None:
    assert table(tmp_path) == "Not run yet."
    draw(tmp_path)
    assert not list(tmp_path.iterdir())
    for name, dial, bits, noise, guides in (
        ("bits-3", "rate", 12, 8.0, []), ("bits-1.5", "rate", 6, 8.0, []),
        ("noise-0", "noise", 12, 0.0, []), ("guided", "loss", 12, 8.0, ["somebody"]),
    ):  # fmt: skip
        reference = f"comdefend:weights={name}.safetensors"
        facts = {
            "reference": reference, "dial": dial, "architecture": {"bits": bits, "block": 2},
            "recipe": {"purifier": {"noise": noise, "guides": guides}},
            "psnr": 27.0, "interval": [26.0, 28.0], **PROVENANCE,
        }  # fmt: skip
        both = [*everything("path/net.py:it", reference), *everything("own.safetensors", reference)]
        keep(tmp_path / f"{name}.json", both, facts)
    lines = table(tmp_path).splitlines()
    shown = [
        line for line in lines if line.startswith("| bits-1.5 | 1.5 | 8 | pixels | 27.00 [26.00, 28.00] |")
    ]
    assert len(shown) == 2
    for line in shown:
        accuracies = [cell.split()[0] for cell in line.split("|")[6:-1]]
        assert accuracies == ["87.5", "75.0", "62.5", "50.0", "25.0", "50.0", "62.5", "12.5"]
    assert sum(line.startswith("| guided | 3 | 8 | pixels and logits |") for line in lines) == 2
    draw(tmp_path)
    drawn = (tmp_path / "frontier.svg").read_bytes()
    draw(tmp_path)
    assert (tmp_path / "frontier.svg").read_bytes() == drawn
    assert b"<svg" in drawn
