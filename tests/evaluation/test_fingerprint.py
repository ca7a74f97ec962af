"""Hashes of networks and of what a number depends on."""

import torch

from comdefend.evaluation.fingerprint import digest, fingerprint
from tests.conftest import TinyClassifier


def test_a_digest_is_that_of_the_weights() -> None:
    network = TinyClassifier()
    before = digest(network)
    assert digest(TinyClassifier()) == before
    with torch.no_grad():
        network.weights[0, 0] += 1
    assert digest(network) != before


def test_a_fingerprint_depends_on_every_value_and_on_no_order() -> None:
    one = fingerprint({"a": 1, "b": [1, 2]})
    assert fingerprint({"b": [1, 2], "a": 1}) == one
    assert len({one, fingerprint({"a": 2, "b": [1, 2]}), fingerprint({"a": 1, "b": [2, 1]})}) == 3
