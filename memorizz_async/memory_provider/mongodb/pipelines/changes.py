"""What vectors in memory are loaded from, and kept fresh by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memorizz_async.memory_provider.mongodb.protocol import Document

RESIDENT_FIELDS = ("embedding", "memory_id", "user_id", "expires_at")
"""The fields of a row that every resident scope depends on."""


def resident_projection(paths: Iterable[str] = ()) -> Document:
    """What is kept of a row in memory: `_id`, the vector, until when the row lives, and the fields
    that filters ask for.
    """
    return dict.fromkeys(_apart(("_id", "embedding", "expires_at", *paths)), 1)


def changes_pipeline(collections: Sequence[str], paths: Iterable[str] = ()) -> list[Document]:
    """The changes of a database that concern vectors in memory, and no more of them than is used.

    paths: the fields that filters may ask for.

    Updates of other fields, such as counting recalls, are left out on the server. A post-image is
    looked up after this match, and so only for updates that pass it.
    """
    kept = _apart((*RESIDENT_FIELDS, *paths))
    names = list(dict.fromkeys(path.split(".")[0] for path in kept))
    changed_fields: Document = {
        "$concatArrays": [
            _keys_of("$updateDescription.updatedFields"),
            {"$ifNull": ["$updateDescription.removedFields", []]},
            {
                "$map": {
                    "input": {"$ifNull": ["$updateDescription.truncatedArrays", []]},
                    "in": "$$this.field",
                }
            },
        ]
    }
    # An element of an array is changed under a name with dots, `embedding.7`.
    of_a_row = {"$arrayElemAt": [{"$split": ["$$this", "."]}, 0]}
    concerns_us = {
        "$anyElementTrue": [{"$map": {"input": changed_fields, "in": {"$in": [of_a_row, names]}}}]
    }
    return [
        {
            "$match": {
                "$or": [
                    {"operationType": {"$in": ["drop", "rename", "dropDatabase", "invalidate"]}},
                    {
                        "operationType": {"$in": ["insert", "replace", "delete"]},
                        "ns.coll": {"$in": list(collections)},
                    },
                    {
                        "operationType": "update",
                        "ns.coll": {"$in": list(collections)},
                        "$expr": concerns_us,
                    },
                ]
            }
        },
        {
            "$project": {
                "operationType": 1,
                "clusterTime": 1,
                "ns": 1,
                "to": 1,
                "documentKey": 1,
                **{f"fullDocument.{path}": 1 for path in kept},
            }
        },
    ]


def list_collection(collection: str) -> Document:
    """The command that says of which kind a collection is; every user who can read it may ask."""
    return {
        "listCollections": 1,
        "filter": {"name": collection},
        "nameOnly": True,
        "authorizedCollections": True,
    }


def _apart(paths: Iterable[str]) -> list[str]:
    """The paths, but none inside of another: a projection must not name both."""
    known = dict.fromkeys(paths)

    def inside(path: str) -> bool:
        return any(path.startswith(f"{other}.") for other in known)

    return [path for path in known if not inside(path)]


def _keys_of(document: str) -> Document:
    entries = {"$objectToArray": {"$ifNull": [document, {}]}}
    return {"$map": {"input": entries, "in": "$$this.k"}}
