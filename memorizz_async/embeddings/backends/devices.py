"""Which device a local model runs on."""

from __future__ import annotations

import re
from typing import Any

from memorizz_async.errors import DeviceUnavailableError

_DEVICE = re.compile(r"(?P<type>[a-z]+)(?::(?P<index>\d+))?")


def available_devices(torch: Any) -> list[str]:
    """Best first: every CUDA device, MPS, the CPU."""
    found = []
    if torch.cuda.is_available():
        found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = getattr(torch.backends, "mps", None)
    if mps is not None and mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def choose_device(torch: Any, wanted: str | None) -> str:
    """The device to use: the one that is wanted, else cuda > mps > cpu.

    Raises DeviceUnavailableError, which lists the devices of this machine. A device that was asked
    for is never replaced by another one in silence.
    """
    available = available_devices(torch)
    if wanted is None or wanted.strip().lower() in ("", "auto"):
        best = available[0]
        return "cuda" if best.startswith("cuda") else best
    name = wanted.strip().lower()
    match = _DEVICE.fullmatch(name)
    if match is not None:
        kind, index = match["type"], match["index"]
        if kind in ("cpu", "mps") and kind in available and index in (None, "0"):
            return kind
        if kind == "cuda" and f"cuda:{index or 0}" in available:
            return name
    raise DeviceUnavailableError(
        "The device for embeddings is not on this machine",
        seen=f"{wanted!r}, while this machine has {', '.join(available)}",
        fix="use one of those in device= or EMB_DEVICE, or leave it out to get the best one",
    )
