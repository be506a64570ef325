"""Everything that somebody may see of an error."""

from __future__ import annotations

import traceback
from collections.abc import Iterator


def everything_shown(error: BaseException) -> Iterator[str]:
    """Its traceback as a log has it, and the words of every error in its chain, suppressed ones
    included: some tools show those too.
    """
    yield "".join(traceback.format_exception(error))
    seen = set()
    chain: list[BaseException | None] = [error]
    while chain:
        one = chain.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield f"{one} {one!r} {one.args!r} {[*map(str, vars(one).values())]!r}"
        chain += [one.__cause__, one.__context__]
