"""What the generated parts of several pages share."""

from typing import Any


def decibel(entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    return f"{entry['psnr']:.2f} [{low:.2f}, {high:.2f}]"


def origin(content: dict[str, Any]) -> str:
    hardware, software = content["hardware"], content["software"]
    return (
        f"<sub>seed {content['seed']}, commit {content['commit']}, {hardware['cores']} cores "
        f"({hardware['processor']}), torch {software['torch']}</sub>"
    )
