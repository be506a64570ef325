"""What a user sets: where it comes from, what is refused, and what is shown of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from memorizz_async import ConfigurationError, MongoDBConfig
from memorizz_async.config import setting


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_guides_two_ways_of_calling_it() -> None:
    """By position, and by the names `uri` and `db_name`; the defaults are the guide's."""
    assert MongoDBConfig("mongodb://h").uri == "mongodb://h"
    assert MongoDBConfig("mongodb://h").db_name == "memorizz"
    named = MongoDBConfig(uri="mongodb://h", db_name="other")
    assert (named.uri, named.db_name) == ("mongodb://h", "other")
    assert MongoDBConfig("mongodb://h", "other") == named
    with pytest.raises(TypeError):
        MongoDBConfig("mongodb://h", "other", "motor")  # type: ignore[misc]


def test_without_anything_the_address_is_local(folder: Path) -> None:
    """No argument, no environment, no `.env`."""
    assert MongoDBConfig().resolved_uri() == "local"


def test_the_argument_wins_over_the_environment_over_dotenv(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first source that names a value wins."""
    (folder / ".env").write_text("MONGODB_URI=mongodb://from-dotenv\n")
    assert MongoDBConfig().resolved_uri() == "mongodb://from-dotenv"
    monkeypatch.setenv("MONGODB_URI", "mongodb://from-environment")
    assert MongoDBConfig().resolved_uri() == "mongodb://from-environment"
    assert MongoDBConfig("memory://").resolved_uri() == "memory://"
    monkeypatch.setenv("MONGODB_URI", "")
    assert MongoDBConfig().resolved_uri() == "mongodb://from-dotenv"


def test_dotenv_is_looked_for_upwards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest `.env` counts, from the working folder up; it does not touch os.environ."""
    (folder / ".env").write_text("EMB_MODEL=outer\nEMB_DEVICE=cpu\n")
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert setting("EMB_MODEL") == "outer"
    (folder / "a" / ".env").write_text("EMB_MODEL=inner\n")
    assert setting("EMB_MODEL") == "inner"
    assert setting("EMB_DEVICE") is None  # one file, not a merge of all
    import os

    assert "EMB_MODEL" not in os.environ


def test_a_changed_dotenv_or_folder_counts_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stale: a notebook edits `.env`, or changes the folder, and makes a new provider."""
    assert setting("EMB_MODEL") is None
    file = folder / ".env"
    file.write_text("EMB_MODEL=one\n")
    assert setting("EMB_MODEL") == "one"
    file.write_text("EMB_MODEL=two\n")
    assert setting("EMB_MODEL") == "two"
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / ".env").write_text("EMB_MODEL=three\n")
    monkeypatch.chdir(folder / "elsewhere")
    assert setting("EMB_MODEL") == "three"


def test_from_a_dict() -> None:
    """Every setting under its own name."""
    values: dict[str, Any] = {
        "uri": "mongodb://h",
        "db_name": "d",
        "driver": "pymongo",
        "timeout_ms": 5,
        "dimensions": 384,
        "collections": {"LONG_TERM_MEMORY": "facts"},
    }
    assert MongoDBConfig.from_dict(values) == MongoDBConfig(**values)


def test_a_key_that_is_no_setting_is_named_with_those_that_are() -> None:
    """A typo is found, not ignored."""
    with pytest.raises(ConfigurationError, match=r"timeout_sec.*timeout_ms"):
        MongoDBConfig.from_dict({"timeout_sec": 5})


def test_from_a_json_file(tmp_path: Path) -> None:
    """A file with one JSON object."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"uri": "memory://", "db_name": "Ünïcode"}), encoding="utf-8")
    assert MongoDBConfig.from_file(file) == MongoDBConfig("memory://", "Ünïcode")
    assert MongoDBConfig.from_file(str(file)).uri == "memory://"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "one JSON object"),
        ('{"nope": 1}', "nope"),
        ('{"timeout_ms": "5"}', "timeout_ms"),
        ("\udcff", "is not JSON"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    """Broken JSON, another shape, unknown or bad settings, bytes that are no text."""
    file = tmp_path / "settings.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError, match=message):
        MongoDBConfig.from_file(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(ConfigurationError, match=r"absent\.json.*No such file"):
        MongoDBConfig.from_file(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("driver", "mongo"),
        ("similarity", "dot"),
        ("search_strategy", None),
        ("timeout_ms", 0),
        ("timeout_ms", 1.5),
        ("timeout_ms", True),
        ("timeout_ms", None),
        ("server_selection_timeout_ms", -1),
        ("max_pool_size", "10"),
        ("dimensions", 0),
        ("db_name", ""),
        ("db_name", None),
        ("db_name", "a.b"),
        ("db_name", "a b"),
        ("uri", 27017),
        ("collections", ["facts"]),
        ("collections", {"SUMMARIES": ""}),
    ],
)
def test_a_value_that_cannot_work_is_refused_at_once(name: str, value: Any) -> None:
    """The message names the setting and what was seen."""
    with pytest.raises(ConfigurationError) as caught:
        MongoDBConfig(**{name: value})
    assert name in str(caught.value) or name in ("db_name",)
    assert caught.value.seen


def test_it_is_frozen() -> None:
    """Two providers may share one; nothing changes under either."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        MongoDBConfig().db_name = "other"  # type: ignore[misc]
    assert dataclasses.replace(MongoDBConfig("memory://"), db_name="d").uri == "memory://"


def test_the_repr_names_every_setting_and_no_password() -> None:
    """Fit for a log."""
    shown = repr(MongoDBConfig("mongodb+srv://user:hush@h/?w=1", timeout_ms=7))
    assert "hush" not in shown
    assert "'mongodb+srv://user:***@h/?w=1'" in shown
    for field in dataclasses.fields(MongoDBConfig):
        assert f"{field.name}=" in shown
    assert "timeout_ms=7" in shown
    assert repr(MongoDBConfig()).startswith("MongoDBConfig(")


@pytest.mark.parametrize(
    "given", [[], ["metadata.topic", "mood"], ("a",), {}, {"LONG_TERM_MEMORY": ["a.b"]}]
)
def test_filter_fields_for_all_types_or_for_some(given: Any) -> None:
    """A list of paths, or lists by memory type."""
    assert MongoDBConfig(filter_fields=given).filter_fields == given


@pytest.mark.parametrize(
    "given",
    [
        "mood",
        5,
        [5],
        [""],
        ["a..b"],
        ["$a"],
        ["a.$b"],
        ["a.0"],
        ["a\0"],
        ["embedding"],
        ["content"],
        {"SUMMARIES": "mood"},
        {"SUMMARIES": ["$a"]},
    ],
    ids=repr,
)
def test_a_path_that_cannot_be_filtered_by_is_refused(given: Any) -> None:
    """What `find` and a search index would not understand alike."""
    with pytest.raises(ConfigurationError, match="filter_fields"):
        MongoDBConfig(filter_fields=given)


def test_quantization_is_one_that_exists_and_fits() -> None:
    """Binary vectors come in bytes."""
    assert MongoDBConfig(quantization="binary", dimensions=384).quantization == "binary"
    with pytest.raises(ConfigurationError, match="quantization"):
        MongoDBConfig(quantization="int8")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="multiple of 8"):
        MongoDBConfig(quantization="binary", dimensions=12)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_dotenv_file_in_utf8_is_read(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a byte order mark, too."""
    (tmp_path / ".env").write_text("MONGODB_URI=mongodb://db.example\n", encoding=encoding)
    monkeypatch.chdir(tmp_path)
    assert MongoDBConfig().resolved_uri() == "mongodb://db.example"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_a_dotenv_file_in_another_encoding_is_an_error_that_names_it(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PowerShell writes UTF-16."""
    text = "MONGODB_URI=mongodb://u:pässword@db.example\n"
    (tmp_path / ".env").write_bytes(text.encode(encoding))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="UTF-8") as caught:
        MongoDBConfig().resolved_uri()
    assert str(tmp_path / ".env") in str(caught.value)
    assert "ssword" not in str(caught.value)
