"""comdefend: purify images of adversarial perturbations before a classifier sees them.

    import comdefend
    purifier = comdefend.load("cifar10")               # any purifier by reference
    clean = purifier(images)                           # [0, 1], N x 3 x H x W, any H and W
    defended = comdefend.defend(classifier, purifier)

Everything is imported when it is first used, so `import comdefend` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comdefend.classifiers import Normalised
    from comdefend.errors import MissingExtraError, RequestError, WorkError
    from comdefend.evaluation import Report
    from comdefend.evaluation.evaluating import evaluate
    from comdefend.model import ComDefend, ComDefendConfig
    from comdefend.purifiers import Purifier, defend, load
    from comdefend.purifiers.files import purify_image

__version__ = "0.1.0"

__all__ = [
    "ComDefend",
    "ComDefendConfig",
    "MissingExtraError",
    "Normalised",
    "Purifier",
    "Report",
    "RequestError",
    "WorkError",
    "__version__",
    "defend",
    "evaluate",
    "load",
    "purify_image",
]

_HOMES = {
    "ComDefend": ("comdefend.model", "ComDefend"),
    "ComDefendConfig": ("comdefend.model", "ComDefendConfig"),
    "MissingExtraError": ("comdefend.errors", "MissingExtraError"),
    "Normalised": ("comdefend.classifiers", "Normalised"),
    "Purifier": ("comdefend.purifiers", "Purifier"),
    "Report": ("comdefend.evaluation", "Report"),
    "RequestError": ("comdefend.errors", "RequestError"),
    "WorkError": ("comdefend.errors", "WorkError"),
    "defend": ("comdefend.purifiers", "defend"),
    "evaluate": ("comdefend.evaluation", "evaluate"),
    "load": ("comdefend.purifiers", "load"),
    "purify_image": ("comdefend.purifiers.files", "purify_image"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'comdefend' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
