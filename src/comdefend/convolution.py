"""Convolutions that are not slow in bfloat16 where a processor has no instructions for it."""

import torch
from torch import Tensor, nn

from comdefend.device import has_bfloat16

HAS_BFLOAT16 = has_bfloat16()
"""Of this processor. Asked once: `torch.compile` cannot trace the question, but reads the answer."""


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, but for how a processor without bfloat16 computes with weights in it.

    PyTorch's own stand-in there takes five to thirteen times as long as float32. Here the numbers, rounded to
    bfloat16 as they are, are convolved in float32 and the sums rounded once: what instructions for bfloat16
    do, but for the order of the sums. So an evaluation that was begun where they exist can go on here.
    Training, whose weights are float32 and only cast to bfloat16, is not helped.

    It has its parent's name since fingerprints of kept results hold the names of modules' types.
    """

    def forward(self, input: Tensor) -> Tensor:
        narrow = input.dtype == self.weight.dtype == torch.bfloat16
        if not narrow or input.device.type != "cpu" or HAS_BFLOAT16:
            return super().forward(input)
        bias = None if self.bias is None else self.bias.float()
        sums: Tensor = self._conv_forward(input.float(), self.weight.float(), bias)
        return sums.bfloat16()
