"""Devices and number formats by name."""

import pytest
import torch

from comdefend.device import fast_dtype, find_device, find_dtype
from comdefend.errors import RequestError


@pytest.mark.parametrize(
    ("abilities", "wanted"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"avx512_f": True, "avx512_bf16": True}, "bfloat16"),
        ({"neon": True, "bf16": True}, "bfloat16"),
        ({}, "float32"),
    ],
)
def test_bfloat16_is_used_where_the_processor_has_it(
    abilities: dict[str, bool], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities, raising=False)
    assert fast_dtype("cpu") == wanted
    if not torch.cuda.is_available():
        assert fast_dtype("auto") == wanted


def test_an_older_torch_that_cannot_tell_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fast_dtype("cpu") == "float32"


def test_names_that_mean_nothing_are_refused() -> None:
    with pytest.raises(RequestError, match="must be one of float32"):
        find_dtype("float8")
    with pytest.raises(RequestError, match="cannot be used here"):
        find_device("cuda:99")
