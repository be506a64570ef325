"""Filters for property tests: every operator, over operands of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

Values = st.SearchStrategy[Any]


def filters_over(
    paths: Sequence[str],
    *,
    numbers: Values,
    ordered: Sequence[Values],
    typed: Sequence[Values],
    scalars: Values,
    max_leaves: int,
) -> Values:
    """Filters that name these paths.

    numbers: for ranges. ordered: for `$gt` and its like, a strategy a kind. typed: those and the
    kinds without an order, for `$in`. scalars: whatever may be compared for equality.
    """
    conditions = st.one_of(
        scalars,
        keyed(["$eq", "$ne"], scalars),
        keyed(["$gt", "$gte", "$lt", "$lte"], st.one_of(*ordered)),
        keyed(["$in", "$nin"], st.one_of(*(st.lists(kind, max_size=3) for kind in typed))),
        st.builds(lambda low, high: {"$gte": low, "$lt": high}, numbers, numbers),
    )
    return st.recursive(
        st.dictionaries(st.sampled_from(paths), conditions, max_size=2),
        lambda inner: keyed(["$and", "$or"], st.lists(inner, min_size=1, max_size=3)),
        max_leaves=max_leaves,
    )


def keyed(operators: list[str], operands: Values) -> Values:
    """One operator and what it is given."""
    return st.builds(lambda key, value: {key: value}, st.sampled_from(operators), operands)
