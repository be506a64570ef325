"""What servers without search say, so that detection can be tested.

The order of the codes: index commands, `$listSearchIndexes`, `$vectorSearch`. In all of them the
refusal comes before any check of the stage's place or content, in sub-pipelines too ([M] for 6.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import ENVELOPE, ServerError

Mode = Literal["atlas", "5.0", "6.0", "7.0", "8.x", "unreachable"]

_COMMANDS_8 = (
    "Using Atlas Search Database Commands and the $listSearchIndexes aggregation stage requires "
    "additional configuration. Please connect to Atlas or an AtlasCLI local deployment to enable. "
    "For more information on how to connect, see "
    "https://dochub.mongodb.org/core/atlas-cli-deploy-local-reqs."
)
_STAGES_8 = (
    "Using $search and $vectorSearch aggregation stages requires additional configuration. Please "
    # No space after "enable.": that is how the server says it. [?] The rest of the sentence.
    "connect to Atlas or an AtlasCLI local deployment to enable.For more information on how to "
    "connect, see https://dochub.mongodb.org/core/atlas-cli-deploy-local-reqs."
)
_ONLY_ATLAS = "{stage} stage is only allowed on MongoDB Atlas"
_UNKNOWN_STAGE = "Unrecognized pipeline stage name: '{stage}'"
_NO_COMMAND = "no such command: '{command}'"


@dataclass(frozen=True)
class _Says:
    command: tuple[int, str]
    list_stage: tuple[int, str]
    search_stage: tuple[int, str]


_SAYS: dict[Mode, _Says] = {
    "5.0": _Says((59, _NO_COMMAND), (40324, _UNKNOWN_STAGE), (40324, _UNKNOWN_STAGE)),
    "6.0": _Says((59, _NO_COMMAND), (6047401, _ONLY_ATLAS), (6047401, _ONLY_ATLAS)),
    # [?] The 115 is from a comment in doctrine/mongodb-odm ("6.0.7+ and 7.0+"), which our own
    # measurement of 6.0.27 contradicts; its text is only known to begin so.
    "7.0": _Says(
        (115, "Search index commands are only supported with Atlas."),
        (6047401, _ONLY_ATLAS),
        (6047401, _ONLY_ATLAS),
    ),
    "8.x": _Says((31082, _COMMANDS_8), (31082, _COMMANDS_8), (31082, _STAGES_8)),
    # A server with search whose mongot is down.
    "unreachable": _Says(
        (125, "Error connecting to Search Index Management service."),
        (125, "Error connecting to Search Index Management service."),
        (6, ENVELOPE + "Error connecting to localhost:28000 :: caused by :: Connection refused"),
    ),
}


def refused_command(mode: Mode, command: str) -> ServerError:
    code, text = _SAYS[mode].command
    return ServerError(code, text.format(command=command))


def refused_stage(mode: Mode, stage: str) -> ServerError:
    says = _SAYS[mode]
    code, text = says.search_stage if stage == "$vectorSearch" else says.list_stage
    return ServerError(code, text.format(stage=stage))
