"""The two kinds of error: what mongod says itself, and what it says in mongot's name."""

from __future__ import annotations

from .messages import Document

CODE_NAMES = {
    1: "InternalError",
    2: "BadValue",
    6: "HostUnreachable",
    8: "UnknownError",
    9: "FailedToParse",
    26: "NamespaceNotFound",
    27: "IndexNotFound",
    50: "MaxTimeMSExpired",
    59: "CommandNotFound",
    68: "IndexAlreadyExists",
    72: "InvalidOptions",
    73: "InvalidNamespace",
    115: "CommandNotSupported",
    125: "CommandFailed",
    197: "InvalidIndexSpecificationOption",
    238: "NotImplemented",
    263: "OperationNotSupportedInTransaction",
    323: "APIStrictError",
    31082: "SearchNotEnabled",
}

ENVELOPE = "PlanExecutor error during aggregation :: caused by :: "


class ServerError(Exception):
    """An error reply with its code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def reply(self) -> Document:
        name = CODE_NAMES.get(self.code, f"Location{self.code}")
        return {"ok": 0.0, "errmsg": self.message, "code": self.code, "codeName": name}


class MongotError(Exception):
    """What mongot answers: a text and no code. Mongod makes 8 UnknownError of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def in_aggregate(self) -> ServerError:
        return ServerError(8, ENVELOPE + self.text)

    def in_index_command(self) -> ServerError:
        # A local deployment reported `(UnknownError) "userCommand.indexes[0].fields" is required`
        # (mongodb-atlas-cli#3321). [?] Atlas proper was also seen with 2 BadValue "Invalid index
        # definition"; do not rely on the code of a malformed definition.
        return ServerError(8, self.text)


def left_out(what: str) -> ServerError:
    """For what the stand-in does not do: loud, and not to be taken for an answer of a server."""
    return ServerError(238, f"the Atlas stand-in does not implement {what}")
