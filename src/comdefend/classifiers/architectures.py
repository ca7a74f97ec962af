"""The registry of architectures that recipes can train and weights can be loaded into."""

from collections.abc import Callable

from torch import nn

from comdefend.registry import Registry

architectures: Registry[Callable[..., nn.Module]] = Registry("comdefend.classifiers")
"""By name: classes or functions of `channels`, `classes` and options of their own."""
