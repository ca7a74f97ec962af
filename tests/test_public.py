"""The public surface: what `import comdefend` offers, and that it is quick."""

import subprocess
import sys

import pytest

import comdefend


def test_the_public_names_are_these() -> None:
    assert sorted(comdefend.__all__) == [
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
    for name in comdefend.__all__:
        assert getattr(comdefend, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'purfy'"):
        _ = comdefend.purfy


def test_importing_comdefend_imports_nothing_heavy() -> None:
    script = (
        "import comdefend, sys; print([m for m in ('torch', 'numpy', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
