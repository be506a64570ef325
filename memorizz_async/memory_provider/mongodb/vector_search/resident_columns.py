"""The fields that filters ask for, of rows in memory: columns beside the vectors of a chunk.

A column keeps each different value once, and of each row the number of its values. A comparison is
made once for each different value; which rows it holds for is then one look-up in numpy. Columns
are only appended to, as the vectors are, so that a search in a thread sees one moment.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memorizz_async.memory_provider.mongodb.filters import AllOf, AnyOf, Comparison, Condition
from memorizz_async.memory_provider.mongodb.vector_search.field_values import (
    RowValues,
    Test,
    Values,
    test_of,
)

Mask = NDArray[np.bool_]

_AS_NUMBERS = ("number", "date")
_EXACT = 2**53
"""Whole numbers below are float64's, and others become no number below; with NaN and those from
here on, Python compares."""

_BYTES_A_VALUE = 256
"""What is kept of a different value: itself, its code, its places in a dict, a list, an array."""
_BYTES_A_PART = 40
"""And of each element where it is a list, beside the element."""


class Columns:
    """The values at some paths of at most `capacity` rows, in the order of the rows."""

    def __init__(self, paths: Sequence[str], capacity: int) -> None:
        self._columns = {path: _Column(capacity) for path in paths}

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values())

    def append(self, rows: Sequence[RowValues]) -> None:
        """Take the values of the next rows, each in the order of the paths."""
        for place, column in enumerate(self._columns.values()):
            column.append([values[place] for values in rows])

    def rows(self, positions: NDArray[np.intp]) -> list[RowValues]:
        """The values of these rows, as they were given."""
        if not self._columns:
            return [()] * len(positions)
        columns = [column.values(positions) for column in self._columns.values()]
        return list(zip(*columns, strict=True))

    def where(self, condition: Condition, count: int) -> Mask:
        """For which of the first `count` rows the condition holds. Its paths must be kept here."""
        match condition:
            case Comparison():
                return self._columns[condition.path].where(condition, count)
            case AllOf(parts):
                every = np.ones(count, dtype=np.bool_)
                for part in parts:
                    every &= self.where(part, count)
                return every
            case AnyOf(parts):
                some = np.zeros(count, dtype=np.bool_)
                for part in parts:
                    some |= self.where(part, count)
                return some

    def without_values(self, path: str, count: int) -> Mask | None:
        """Which of the first `count` rows have values there that are not kept; None where none has
        had any.
        """
        return self._columns[path].without_values(count)


class _Column:
    def __init__(self, capacity: int) -> None:
        self._codes = np.empty(capacity, dtype=np.int32)
        self._count = 0
        self._code_of: dict[Values | None, int] = {}
        self._by_kind: dict[str, _Known] = {}
        self._part_bytes = 0

    @property
    def nbytes(self) -> int:
        return self._codes.nbytes + _BYTES_A_VALUE * len(self._code_of) + self._part_bytes

    def append(self, rows: Sequence[Values | None]) -> None:
        codes = self._code_of
        for values in rows:
            if values not in codes:
                self._learn(values)
        stop = self._count + len(rows)
        self._codes[self._count : stop] = [codes[values] for values in rows]
        self._count = stop

    def values(self, positions: NDArray[np.intp]) -> list[Values | None]:
        known = list(self._code_of)
        return [known[code] for code in self._codes[positions].tolist()]

    def where(self, wanted: Comparison, count: int) -> Mask:
        test = test_of(wanted)
        # Room for every code: more may come while a thread is in here, about rows not asked for.
        holds = np.zeros(len(self._codes), dtype=np.bool_)
        if (known := self._by_kind.get(test.kind)) is not None:
            holds[known.codes_where(test)] = True
        if test.negated:
            np.logical_not(holds, out=holds)
        chosen: Mask = holds[self._codes[:count]]
        return chosen

    def without_values(self, count: int) -> Mask | None:
        code = self._code_of.get(None)
        return None if code is None else self._codes[:count] == code

    def _learn(self, values: Values | None) -> None:
        code = len(self._code_of)
        for kind, value in zip((values or ())[::2], (values or ())[1::2], strict=True):
            self._by_kind.setdefault(kind, _Known()).append(value, code)
            self._part_bytes += _BYTES_A_PART + sys.getsizeof(value)  # of text, 1 to 4 a letter
        self._code_of[values] = code


class _Known:
    """The values of one kind, and beside each the code of the row's values that it is of."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._codes: list[int] = []
        self._arrays: tuple[int, NDArray[np.float64] | None, NDArray[np.int32]] | None = None

    def append(self, value: Any, code: int) -> None:
        self._codes.append(code)  # before the value, which whoever reads goes by
        self._values.append(value)

    def codes_where(self, test: Test) -> NDArray[np.int32] | list[int]:
        """The codes of the values that pass."""
        operands = test.operands
        if test.kind in _AS_NUMBERS and all(abs(operand) < _EXACT for operand in operands):
            numbers, codes = self._as_arrays()
            if numbers is not None:
                holds = test.compares(operands[0], numbers)
                for operand in operands[1:]:
                    holds |= test.compares(operand, numbers)
                passing: NDArray[np.int32] = codes[holds]
                return passing
        passes = test.passes()
        both = zip(self._values, self._codes, strict=False)
        return [code for value, code in both if passes(value)]

    def _as_arrays(self) -> tuple[NDArray[np.float64] | None, NDArray[np.int32]]:
        """Values and codes; no values where float64 would not tell them apart."""
        count = len(self._values)
        if self._arrays is None or self._arrays[0] != count:
            numbers = np.array(self._values[:count], dtype=np.float64)
            exact = bool((np.abs(numbers) < _EXACT).all())
            codes = np.array(self._codes[:count], dtype=np.int32)
            self._arrays = (count, numbers if exact else None, codes)
        return self._arrays[1:]
