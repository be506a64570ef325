"""UUIDs in the form that the address of the database says."""

from __future__ import annotations

import uuid
from typing import Any

import pymongo
import pytest
from bson.binary import Binary, UuidRepresentation

from memorizz_async import AsyncMongoDBProvider, MongoDBConfig

FACTS = "LONG_TERM_MEMORY"
FORMS = {
    "standard": UuidRepresentation.STANDARD,
    "pythonLegacy": UuidRepresentation.PYTHON_LEGACY,
    "javaLegacy": UuidRepresentation.JAVA_LEGACY,
}


def address(mongod: Any, form: str) -> str:
    """The server's address, which says how UUIDs are stored."""
    sign = "&" if "?" in mongod.uri else "/?"
    return f"{mongod.uri}{sign}uuidRepresentation={form}"


@pytest.mark.parametrize("strategy", ["scan", "resident"])
@pytest.mark.parametrize("driver", ["pymongo", "motor"])
@pytest.mark.parametrize("form", FORMS)
async def test_a_uuid_means_what_the_address_says(
    mongod: Any, db_name: str, driver: Any, form: str, strategy: Any
) -> None:
    """As an id, in the filter of a recall and in conditions."""
    row_id, trace = uuid.uuid4(), uuid.uuid4()
    with pymongo.MongoClient(mongod.uri) as client:
        client[db_name]["knowledge_base"].insert_one(
            {
                "_id": Binary.from_uuid(row_id, FORMS[form]),
                "trace": Binary.from_uuid(trace, FORMS[form]),
                "memory_id": "ada", "user_id": None, "content": "bees", "embedding": [1.0, 0.0],
            }
        )  # fmt: skip
    config = MongoDBConfig(
        address(mongod, form), db_name, driver=driver, search_strategy=strategy,
        filter_fields=["trace"],
    )  # fmt: skip
    async with AsyncMongoDBProvider(config) as provider:
        [hit] = await provider.retrieve_memory_units_by_query_async(
            query_embedding=[1.0, 0.0], memory_id="ada", filter={"trace": trace}
        )
        for given in (hit["_id"], row_id):
            row = await provider.get_async(given, FACTS, memory_id="ada")
            assert row is not None
            assert row["content"] == "bees"
        where = {"trace": trace}
        assert await provider.update_many_async(FACTS, {"n": 1}, where=where, memory_id="ada") == 1
        assert await provider.touch_many_async([row_id], FACTS, memory_id="ada") == 1
        assert await provider.delete_async(row_id, FACTS, expected=where, memory_id="ada")


@pytest.mark.parametrize("strategy", ["scan", "resident"])
@pytest.mark.parametrize("driver", ["pymongo", "motor"])
@pytest.mark.parametrize("form", FORMS)
async def test_an_id_that_holds_a_uuid_takes_no_other_rows_place(
    mongod: Any, db_name: str, driver: Any, form: str, strategy: Any
) -> None:
    """A row whose `_id` is a document with a UUID is found, read and deleted."""
    with pymongo.MongoClient(mongod.uri) as client:
        client[db_name]["knowledge_base"].insert_many(
            {
                "_id": {"part": n, "of": [Binary.from_uuid(uuid.UUID(int=n), FORMS[form])]},
                "memory_id": "ada", "user_id": None, "content": f"bees {n}", "embedding": [1.0, 0],
            }
            for n in range(4)
        )  # fmt: skip
    config = MongoDBConfig(address(mongod, form), db_name, driver=driver, search_strategy=strategy)
    async with AsyncMongoDBProvider(config) as provider:
        for left in (4, 3):
            hits = await provider.retrieve_memory_units_by_query_async(
                query_embedding=[1.0, 0.0], memory_id="ada", limit=3
            )
            contents = [hit["content"] for hit in hits]
            assert contents == [f"bees {n}" for n in range(4 - left, 4)][:3]
            row = await provider.get_async(hits[0]["_id"], FACTS, memory_id="ada")
            assert row is not None
            assert row["content"] == contents[0]
            assert await provider.delete_async(hits[0]["_id"], FACTS, memory_id="ada")
