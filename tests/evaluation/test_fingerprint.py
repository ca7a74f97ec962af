"""Hashes of networks and of what a number depends on."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from comdefend.evaluation.fingerprint import answers, digest, fingerprint, surroundings
from comdefend.factory import load_factory
from tests.conftest import TinyClassifier


def test_a_digest_is_that_of_the_weights() -> None:
    network = TinyClassifier()
    before = digest(network)
    assert digest(TinyClassifier()) == before
    with torch.no_grad():
        network.weights[0, 0] += 1
    assert digest(network) != before


def test_surroundings_are_settings_buffers_and_files_beside(tmp_path: Path) -> None:
    (tmp_path / "helper_of_net.py").write_text("SCALE = 2\n")
    (tmp_path / "net.py").write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, str(Path(__file__).parent))\n"
        "import helper_of_net\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def forward(self, images):\n"
        "        return images * helper_of_net.SCALE\n"
    )
    network = load_factory(f"{tmp_path / 'net.py'}:Net")
    found = {surroundings(network)}
    network.register_forward_hook(lambda *_: None, always_call=True)  # as while it is judged
    assert surroundings(network) in found
    vars(network)["strength"] = 3.0
    found.add(surroundings(network))
    mask = torch.ones(2)
    network.register_buffer("mask", mask, persistent=False)
    found.add(surroundings(network))
    mask[0] = 0
    found.add(surroundings(network))
    (tmp_path / "helper_of_net.py").write_text("SCALE = 3\n")
    found.add(surroundings(network))
    assert len(found) == 5
    assert surroundings(network) in found


def test_what_no_hash_of_the_parts_sees_is_seen_in_the_answers() -> None:
    class Scaling(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factors = np.array([factor])

        def forward(self, images: Tensor) -> Tensor:
            return images - float(self.factors[0])

    images = torch.rand(2, 3, 4, 4)
    one, same, other = Scaling(0.1), Scaling(0.1), Scaling(0.2)
    assert digest(one) == digest(other)
    assert surroundings(one) == surroundings(other)
    assert answers(one, images) == answers(same, images) != answers(other, images)


def test_a_fingerprint_depends_on_every_value_and_on_no_order() -> None:
    one = fingerprint({"a": 1, "b": [1, 2]})
    assert fingerprint({"b": [1, 2], "a": 1}) == one
    assert len({one, fingerprint({"a": 2, "b": [1, 2]}), fingerprint({"a": 1, "b": [2, 1]})}) == 3
