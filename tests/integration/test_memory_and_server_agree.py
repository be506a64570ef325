"""While three processes write at random: at each quiet moment a recall from memory, the same by the
server, and a plain model in float64 give the same rows, in the same order, with the same scores.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pymongo
import pytest
from support.internals import session_of
from support.random_writer import KIND, LARGE, NOW, TENANTS, USERS, VECTORS, WORDS, form_of

from memorizz_async import AsyncMongoDBProvider, MongoDBConfig, StoredEmbeddingError
from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb import hybrid
from memorizz_async.memory_provider.mongodb.driver import change_stream
from memorizz_async.memory_provider.mongodb.filters import fields_by_type, for_find, parse_filter
from memorizz_async.retrieval.fusion import FUSIONS
from memorizz_async.vectors import stored_vector

ROUNDS, STEPS, QUERIES = 3, 20, 25
SIZE = int(os.environ.get("MEMORIZZ_ASYNC_TEST_SIZE", "1"))
"""How many times more; `nox -s slow` raises it."""
FIELDS = ["metadata.topic"]
FILTERS: list[Any] = [
    None,
    None,
    {"importance": {"$gt": LARGE}},
    {"importance": {"$lte": float(LARGE)}},
    {"importance": {"$in": [1, LARGE + 1, 0]}},
    {"importance": {"$nin": [1.0, 0.5]}},
    {"importance": None},
    {"importance": {"$ne": None}},
    {"importance": True},
    {"role": "a"},
    {"role": {"$ne": "a"}},
    {"role": {"$gte": "\uffff"}},
    {"role": {"$lt": "b"}},
    {"created_at": {"$gte": NOW}},
    {"created_at": {"$ne": NOW}},
    {"metadata.topic": {"$in": ["tea", "milk"]}, "role": {"$nin": ["b", "ab"]}},
    {"$or": [{"metadata.topic": 2}, {"role": None}, {"importance": {"$gte": float(2**62)}}]},
]


@contextmanager
def writers(uri: str, name: str, seed: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Three processes that write when they are told to, and end with the block."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "support.random_writer", uri, name, f"{seed} {number}", how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for number, how in enumerate(("driver", "driver", "library"))
    ]
    try:
        yield started
    finally:
        for each in started:
            each.communicate(timeout=30)
    assert [each.returncode for each in started] == [0, 0, 0]


class Model:
    """What a recall answers, by plain arithmetic over the rows as the server gives them."""

    def __init__(self, collection: Any, asked: dict[str, Any]) -> None:
        self.asked = asked
        user = asked.get("user_id", "unset")
        whose = {} if user == "unset" else {"user_id": user}
        if isinstance(user, str) and user != "unset":
            whose = {"$or": [{"user_id": user}, {"user_id": None}]}
        wanted = parse_filter(asked["filter"], fields_by_type(FIELDS)[KIND])
        alive = {"expires_at": {"$not": {"$lte": NOW}}}  # what is no date never expires
        self.where = {"$and": [{"memory_id": asked["memory_id"]}, whose, alive, for_find(wanted)]}
        self.collection = collection
        query = np.array(asked["query_embedding"], np.float64)
        self.vector: dict[str, float] = {}
        """The score of each row that has one, in the order of the server's ids."""
        self.bad: list[str] = []
        self.ids: list[str] = []
        for row in collection.find(self.where, {"embedding": 1}).sort("_id", 1):
            self.ids.append(str(row["_id"]))
            if not row.get("embedding", ()) and row.get("embedding") not in ([], {}):
                continue
            score = self.score(row["embedding"], query)
            if score is None:
                self.bad.append(str(row["_id"]))
            else:
                self.vector[str(row["_id"])] = score

    @staticmethod
    def score(stored: Any, query: Any) -> float | None:
        try:
            vector = stored_vector(stored).astype(np.float64)
        except (TypeError, ValueError):
            return None
        if vector.shape != query.shape or not np.isfinite(vector).all() or not vector.any():
            return None
        return float((1 + vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)) / 2)

    def best(self, count: int | None = None) -> list[tuple[str, float]]:
        """By vectors: the highest scores, of equal ones the lowest ids."""
        return sorted(self.vector.items(), key=lambda pair: -pair[1])[:count]

    def by_words(self, count: int) -> tuple[list[tuple[str, float]], bool]:
        """By words, and whether no other row has any of them."""
        score = {"$meta": "textScore"}
        pipeline = [
            {"$match": {"$and": [{"$text": {"$search": self.asked["query"]}}, self.where]}},
            {"$sort": {"score": score, "_id": 1}},
            {"$project": {"score": score}},
        ]
        found = [(str(row["_id"]), row["score"]) for row in self.collection.aggregate(pipeline)]
        return found[:count], len(found) < count

    def expected(self) -> list[tuple[str, float]]:
        """What comes into question, the best first."""
        if self.asked["mode"] == "hybrid":
            return self.fused(hybrid.candidates_for(self.asked["limit"]))
        if self.asked["mode"] == "text":
            return [(key, score / (1 + score)) for key, score in self.by_words(1_000)[0]]
        return self.best()

    def fused(self, count: int) -> list[tuple[str, float]]:
        """Both: the candidates of each search, their standard scores or ranks added up."""
        best, (words, complete) = self.best(count), self.by_words(count)
        text = dict(words)
        chosen = {row_id for row_id, _ in best} | set(text)
        candidates = [row_id for row_id in self.ids if row_id in chosen]
        if not candidates:
            return []
        by_vector = np.array([self.vector.get(each, np.nan) for each in candidates])
        by_words = np.array([text.get(each, 0.0 if complete else np.nan) for each in candidates])
        fused = FUSIONS["zscore"](by_vector, by_words).tolist()
        pairs = zip(candidates, fused, strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])


class Comparer:
    """Asks one provider, from memory and by the server, and the model."""

    def __init__(self, provider: AsyncMongoDBProvider, collection: Any) -> None:
        self.provider, self.collection = provider, collection
        self.strategies: list[str] = []

    async def ask(self, asked: dict[str, Any], consistency: str) -> tuple[Any, Any]:
        """Rows with all their scores, and what is reported of the others."""
        try:
            hits = await self.provider.retrieve_memory_units_by_query_async(
                memory_type=KIND, consistency=consistency, **asked
            )
        except StoredEmbeddingError as error:
            return [], (error.rows, error.count, str(error))
        if hits and consistency != "strong":
            self.strategies.append(hits.strategy)
        scores = ("_id", "score", "text_score", "fused_score")
        rows = [tuple(hit.get(name) for name in scores) for hit in hits]
        odd = hits.unsearchable
        return rows, odd and (odd.rows, odd.count, str(odd))

    async def compare(self, asked: dict[str, Any]) -> None:
        in_memory = await self.ask(asked, "session")
        by_server = await self.ask(asked, "strong")
        assert in_memory == by_server, asked
        rows, report = in_memory
        model = Model(self.collection, asked)
        expected = model.expected() if rows or asked["mode"] != "hybrid" else model.best()
        which = {"vector": 1, "text": 1, "hybrid": 3}[asked["mode"]]
        found = [(str(row[0]), row[which]) for row in rows]
        assert len(found) == min(asked["limit"], len(expected)), asked
        value_of, place_of = dict(expected), {key: at for at, key in enumerate(model.ids)}
        for (row_id, value), (_, best) in zip(found, expected, strict=False):
            assert value == pytest.approx(value_of[row_id], abs=1e-6), asked
            assert value == pytest.approx(best, abs=1e-6), asked
        for (one, value), (other, less) in pairwise(found):
            assert (-value, place_of[one]) < (-less, place_of[other]), asked
        if found:  # nobody who is as good, and before the last by id, was left out
            last, left = found[-1][0], value_of.keys() - dict(found).keys()
            equal = [each for each in left if value_of[each] == value_of[last]]
            assert all(place_of[each] > place_of[last] for each in equal), asked
        if asked["mode"] == "vector" or report:
            assert (report[1] if report else 0) == len(model.bad), asked
            assert list(report[0] if report else ()) == model.bad[:20]


def question() -> dict[str, Any]:
    user = random.choice([*USERS, "unset"])
    return {
        "query": " ".join(random.choices(WORDS, k=2)),
        "query_embedding": random.choice(VECTORS),
        "memory_id": random.choice(TENANTS),
        **({} if user == "unset" else {"user_id": user}),
        "limit": random.randrange(1, 8),
        "filter": random.choice(FILTERS),
        "mode": random.choice(["vector", "vector", "hybrid", "text"]),
    }


async def go(writing: list[subprocess.Popen[str]], steps: int) -> None:
    """Let all write, and wait until all are done."""
    for each in writing:
        assert each.stdin is not None
        each.stdin.write(f"{steps}\n")
        each.stdin.flush()
    for each in writing:
        assert each.stdout is not None
        assert await asyncio.to_thread(each.stdout.readline) == "done\n"


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_at_quiet_moments_memory_server_and_model_agree(
    mongod: Any, db_name: str, monkeypatch: pytest.MonkeyPatch, driver: Any
) -> None:
    """Rows, order, scores, filters, hybrid recall, and what is said of rows without a score."""
    monkeypatch.setattr(change_stream, "CHANGES_WAIT_MS", 20)
    monkeypatch.setattr(hybrid, "_AT_LEAST", 3)  # fewer candidates than there are equals
    monkeypatch.setattr(hybrid, "_TIMES_THE_LIMIT", 1)
    seed = int(os.environ.get("MEMORIZZ_ASYNC_TEST_SEED", "7"))
    random.seed(f"{seed} {driver}")
    config = MongoDBConfig(mongod.uri, db_name, driver=driver, dimensions=4, filter_fields=FIELDS)
    with (
        pymongo.MongoClient(mongod.uri, tz_aware=True) as client,
        writers(mongod.uri, db_name, seed) as writing,
    ):
        async with AsyncMongoDBProvider(config) as provider:
            await provider.ensure_indexes_async([KIND])
            comparer = Comparer(provider, client[db_name][KIND.collection])
            session = await session_of(provider)
            for _ in range(ROUNDS * SIZE):
                storm = asyncio.create_task(go(writing, STEPS))
                while not storm.done():  # loads and changes go on at once
                    await comparer.ask(question(), random.choice(["session", "strong"]))
                await storm
                assert await session.residents.caught_up(Deadline.after(30_000))
                for _ in range(QUERIES):
                    await comparer.compare(question())
    assert comparer.strategies.count("resident") > len(comparer.strategies) / 4


def test_vectors_of_the_writers_have_exact_products() -> None:
    """So that rows that tie in float64 tie in float32, and the model can say so."""
    assert all(np.linalg.norm(vector) == 1 for vector in VECTORS)
    assert stored_vector(form_of(VECTORS[0])).tolist() == VECTORS[0]
