"""Arguments of the provider in the form in which they are sent: conditions, and UUIDs.

A UUID is stored as the option `uuidRepresentation` of the database's address says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from bson import Binary
from bson.binary import UuidRepresentation

from memorizz_async.errors import InvalidFilterError
from memorizz_async.memory_provider.mongodb.pipelines.editing import Where
from memorizz_async.memory_provider.mongodb.rows import UuidForm
from memorizz_async.memory_provider.mongodb.values import Codec
from memorizz_async.validation import check_depth, checked_list, checked_mapping


def stored_uuid(value: UUID, codec: Codec) -> Binary:
    """The UUID as it is stored; where the address says nothing, as BSON's own type, subtype 4."""
    given = codec.uuid_representation
    unsaid = given == UuidRepresentation.UNSPECIFIED
    return Binary.from_uuid(value, UuidRepresentation.STANDARD if unsaid else given)


def with_stored_uuids(value: Any, form: UuidForm) -> Any:
    """The value of a condition with each UUID in its stored form, also inside of it.

    The value is not nested too deep: see `check_depth`.
    """
    if isinstance(value, UUID):
        return form(value)
    if isinstance(value, dict):
        return {name: with_stored_uuids(each, form) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [with_stored_uuids(each, form) for each in value]
    return value


def checked_where(where: Any, uuid_form: UuidForm) -> Where:
    """The caller's conditions, with each UUID as it is stored.

    Raises InvalidFilterError for what is neither a mapping nor a list of mappings, and for a value
    that is nested too deep.
    """
    if where is None:
        return None
    alternatives = (
        [where]
        if isinstance(where, Mapping)
        else checked_list("where", where, error=InvalidFilterError)
    )
    for one in alternatives:
        checked_mapping("A condition", one, error=InvalidFilterError)
        check_depth("A condition", one, error=InvalidFilterError)
    given = [
        {name: with_stored_uuids(value, uuid_form) for name, value in one.items()}
        for one in alternatives
    ]
    return given[0] if isinstance(where, Mapping) else given
