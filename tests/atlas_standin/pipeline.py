"""Pipelines: where the search stages may stand, and turning a search into stages mongod knows.

    [{$vectorSearch}, …rest]

becomes

    [{$match: the _ids found}, order them as found, add the score, …rest, hide the score]

so that the values returned are the current ones, documents deleted meanwhile drop out, and every
later stage is the real thing. The score is real metadata on Atlas; here it is a field with an
unlikely name that is kept alive up to the last stage that asks for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from .content import Hit
from .errors import ServerError, left_out

VECTOR_SEARCH = "$vectorSearch"
LIST_INDEXES = "$listSearchIndexes"
_SCORE = "__atlas_standin_score"
_RANK = "__atlas_standin_rank"
_META = {"$meta": "vectorSearchScore"}

Stage = Mapping[str, Any]
Pipeline = list[Any]
# Given a collection and the stage's value: the hits, best first.
Search = Callable[[str, Any], Awaitable[list[Hit]]]


def stage_names(pipeline: Any) -> Iterator[str]:
    """Every stage's name, those of sub-pipelines included."""
    for name, spec in _stages(pipeline):
        yield name
        for _, nested in _nested(name, spec):
            yield from stage_names(nested)


def check_positions(pipeline: Any, inside: str | None = None) -> None:
    """First in the pipeline or in a `$unionWith`; not in `$facet`, not in `$lookup`.

    Texts and codes measured on 6.0.27 with other stages of that kind. Not checked here: time
    series, view definitions, and old servers that refused `$unionWith` too (31441).
    """
    for at, (name, spec) in enumerate(_stages(pipeline)):
        for holder, nested in _nested(name, spec):
            check_positions(nested, holder)
        if name not in (VECTOR_SEARCH, LIST_INDEXES):
            continue
        if inside == "$facet":
            text = f"{name} is not allowed to be used within a $facet stage"
            raise ServerError(40600, text)
        if inside == "$lookup" and name == VECTOR_SEARCH:
            raise ServerError(51047, f"{name} is not allowed within a $lookup's sub-pipeline")
        if at > 0:
            text = f"{name} is only valid as the first stage in a pipeline"
            raise ServerError(40602, text)
        if inside is not None and name == LIST_INDEXES:
            raise left_out("$listSearchIndexes in a sub-pipeline")


async def with_hits(
    pipeline: Pipeline, collection: str, search: Search, *, keep_score: bool = False
) -> Pipeline:
    """The pipeline with every `$vectorSearch` replaced by its result."""
    rest = pipeline
    out: Pipeline = []
    last = max((at for at, stage in enumerate(pipeline) if _asks_for_score(stage)), default=-1)
    if keep_score:
        last = len(pipeline)
    if pipeline and VECTOR_SEARCH in pipeline[0]:
        out = _found(await search(collection, pipeline[0][VECTOR_SEARCH]), with_score=last >= 0)
        rest = pipeline[1:]
    for at, stage in enumerate(rest, len(pipeline) - len(rest)):
        later = at < last
        if "$unionWith" in stage:
            out.append(await _with_union(stage, search, keep_score=later))
        elif at > last:
            out.append(stage)
        else:
            out += _carrying_score(stage, keep=later)
        if at == last:
            out.append({"$unset": _SCORE})
    return out


async def _with_union(stage: Stage, search: Search, *, keep_score: bool) -> Stage:
    spec = stage["$unionWith"]
    if not isinstance(spec, dict) or not isinstance(spec.get("pipeline"), list):
        return stage
    nested = await with_hits(
        spec["pipeline"], str(spec.get("coll", "")), search, keep_score=keep_score
    )
    return {"$unionWith": {**spec, "pipeline": nested}}


def _found(hits: list[Hit], *, with_score: bool) -> Pipeline:
    """[?] A collation of the command would apply to this `$match` too; it does not on Atlas."""
    ids = [hit.id for hit in hits]
    rank = {"$indexOfArray": [{"$literal": ids}, "$_id"]}
    score = {"$arrayElemAt": [{"$literal": [hit.score for hit in hits]}, f"${_RANK}"]}
    return [
        {"$match": {"_id": {"$in": ids}}},
        {"$set": {_RANK: rank}},
        {"$sort": {_RANK: 1}},
        *([{"$set": {_SCORE: score}}] if with_score else []),
        {"$unset": _RANK},
    ]


def _carrying_score(stage: Stage, *, keep: bool) -> Pipeline:
    """A stage that reads the score from the field, and lets the field live on where needed."""
    name: str
    spec: Any
    name, spec = next(iter(stage.items()), ("", None))
    if name == "$project" and isinstance(spec, dict):
        return _project(spec, keep=keep)
    if name == "$sort" and isinstance(spec, dict):
        order = {
            _SCORE if by == _META else key: -1 if by == _META else by for key, by in spec.items()
        }
        return [{"$sort": order}]
    if name in ("$replaceRoot", "$replaceWith") and keep:
        root = _read_score(spec["newRoot"] if name == "$replaceRoot" else spec)
        return [{"$replaceWith": {"$mergeObjects": [root, {_SCORE: f"${_SCORE}"}]}}]
    if name == "$facet" and isinstance(spec, dict):
        facets = {key: [*_read_score(nested), {"$unset": _SCORE}] for key, nested in spec.items()}
        return [{"$facet": facets}]
    if name == "$lookup" and isinstance(spec, dict):
        own = {
            key: value if key == "pipeline" else _read_score(value) for key, value in spec.items()
        }
        return [{"$lookup": own}]
    return [_read_score(stage)]


def _project(spec: Mapping[str, Any], *, keep: bool) -> Pipeline:
    """Measured on 6.0.27: `$meta` may stand in an exclusion, and alone makes an inclusion."""
    if _is_exclusion(spec):
        added: dict[str, Any] = {}
        excluded = _without_scores(spec, "", added)
        return [*([{"$set": added}] if added else []), {"$project": excluded}]
    included = dict(_read_score(spec))
    if keep:
        included[_SCORE] = 1
    return [{"$project": included}]


def _is_exclusion(spec: Mapping[str, Any]) -> bool:
    kind = _inclusion(spec)
    if kind is None:
        return "_id" in spec and not spec["_id"] and not _asks_for_score(spec)
    return not kind


def _inclusion(spec: Mapping[str, Any], *, root: bool = True) -> bool | None:
    """True or False where a key says so, None where nothing does."""
    for key, value in spec.items():
        if (root and key == "_id") or value == _META:
            continue
        if isinstance(value, bool | int | float):
            return bool(value)
        if isinstance(value, dict) and not any(inner.startswith("$") for inner in value):
            if (nested := _inclusion(value, root=False)) is not None:
                return nested
            continue
        return True
    return None


def _without_scores(spec: Mapping[str, Any], prefix: str, added: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in spec.items():
        if value == _META:
            added[prefix + key] = f"${_SCORE}"
        elif isinstance(value, dict):
            nested = _without_scores(value, f"{prefix}{key}.", added)
            if nested or not value:  # an empty one is the client's mistake, and mongod's to refuse
                kept[key] = nested
        else:
            kept[key] = value
    return kept


def _asks_for_score(value: Any) -> bool:
    if value == _META:
        return True
    if isinstance(value, list):
        return any(_asks_for_score(item) for item in value)
    if not isinstance(value, dict) or "$literal" in value:
        return False
    if "$unionWith" in value:
        return False  # its pipeline has scores of its own
    if "$lookup" in value and isinstance(value["$lookup"], dict):
        own = {key: item for key, item in value["$lookup"].items() if key != "pipeline"}
        return _asks_for_score(list(own.values()))
    return any(_asks_for_score(item) for item in value.values())


def _read_score(value: Any) -> Any:
    """An expression with the metadata replaced by the field; the whole document is shown bare."""
    if value == _META:
        return f"${_SCORE}"
    if isinstance(value, str) and value in ("$$ROOT", "$$CURRENT"):
        return {"$unsetField": {"field": _SCORE, "input": value}}
    if isinstance(value, list):
        return [_read_score(item) for item in value]
    if isinstance(value, dict) and "$literal" not in value:
        return {key: _read_score(item) for key, item in value.items()}
    return value


def _stages(pipeline: Any) -> Iterator[tuple[str, Any]]:
    for stage in pipeline if isinstance(pipeline, list) else ():
        if isinstance(stage, dict) and stage:
            yield next(iter(stage.items()))


def _nested(name: str, spec: Any) -> Iterator[tuple[str, Any]]:
    """The sub-pipelines of a stage, each with the name of the stage that holds it."""
    if not isinstance(spec, dict):
        return
    if name == "$facet":
        for pipeline in spec.values():
            yield name, pipeline
    elif name in ("$lookup", "$unionWith"):
        yield name, spec.get("pipeline")
