"""Arguments of the provider in the form in which they are sent: conditions, and UUIDs.

A UUID is stored as the option `uuidRepresentation` of the database's address says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from bson import Binary
from bson.binary import UuidRepresentation

from memorizz_async.errors import InvalidFilterError
from memorizz_async.memory_provider.mongodb.pipelines.editing import Where
from memorizz_async.memory_provider.mongodb.rows import UuidForm
from memorizz_async.validation import check_depth, checked_list, checked_mapping

_NAMES = {
    "pythonlegacy": UuidRepresentation.PYTHON_LEGACY,
    "javalegacy": UuidRepresentation.JAVA_LEGACY,
    "csharplegacy": UuidRepresentation.CSHARP_LEGACY,
}


def uuid_form_of(address: str) -> UuidForm:
    """The function that stores a UUID. Without the option it is BSON's own type, subtype 4."""
    for name, value in parse_qsl(address.partition("?")[2]):
        if name.lower() == "uuidrepresentation" and value.lower() in _NAMES:
            return partial(Binary.from_uuid, uuid_representation=_NAMES[value.lower()])
    return Binary.from_uuid


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
