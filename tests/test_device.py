"""Devices and number formats by name."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from comdefend import device
from comdefend.device import fast_dtype, find_device, find_dtype, keep_freed_memory
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
    monkeypatch.setattr(device, "_bfloat16_pays", lambda: True)
    assert fast_dtype("cpu") == wanted
    if not torch.cuda.is_available():
        assert fast_dtype("auto") == wanted
    monkeypatch.setattr(device, "_bfloat16_pays", lambda: False)
    assert fast_dtype("cpu") == "float32"


def test_whether_bfloat16_pays_is_tried_and_remembered() -> None:
    """What comes out is the machine's affair; that it is the same each time is ours."""
    assert len({device._bfloat16_pays() for _ in range(3)}) == 1


def test_an_older_torch_that_cannot_tell_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fast_dtype("cpu") == "float32"


def test_memory_is_kept_where_the_allocator_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, whose allocator stays as it was told."""
    page_faults = """
import resource, sys, torch
from comdefend.device import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for turn in range(20):
    if turn == 15:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    told = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    faults = {
        way: int(subprocess.check_output([sys.executable, "-c", page_faults, way], env=told))
        for way in ("kept", "usual")
    }
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("the allocator here is not glibc's")
    assert faults["kept"] < faults["usual"] / 4
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_freed_memory()  # elsewhere nothing, and no error


def test_names_that_mean_nothing_are_refused() -> None:
    with pytest.raises(RequestError, match="must be one of float32"):
        find_dtype("float8")
    with pytest.raises(RequestError, match="cannot be used here"):
        find_device("cuda:99")
