"""What a table of a capture is made of: columns with type, unit and meaning. The tables themselves are in `schema`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

PolarsType = pl.DataType | type[pl.DataType]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: its polars type, its unit (empty where it has none) and what it means."""

    name: str
    dtype: PolarsType
    unit: str
    meaning: str

    @property
    def is_text(self) -> bool:
        """Whether its values are words, however they are held in memory."""
        return self.stored == pl.String

    @property
    def stored(self) -> PolarsType:
        """Its type in a file, where words are always text: what they may be is checked when they are read."""
        return pl.String if isinstance(self.dtype, pl.Enum) or self.dtype == pl.Categorical else self.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of the capture."""

    name: str
    meaning: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> dict[str, PolarsType]:
        """Column name to polars type, in order."""
        return {column.name: column.dtype for column in self.columns}

    def empty(self) -> pl.DataFrame:
        """The table without rows."""
        return pl.DataFrame(schema=self.schema)

    def frame(self, columns: Mapping[str, Sequence[object] | npt.NDArray[np.generic] | pl.Series]) -> pl.DataFrame:
        """Rows from column values, cast to the declared types; columns left out become null."""
        height = max((len(values) for values in columns.values()), default=0)
        known = {
            column.name: pl.Series(column.name, columns[column.name], dtype=column.dtype, strict=False)
            if column.name in columns
            else pl.Series(column.name, [None] * height, dtype=column.dtype)
            for column in self.columns
        }
        return pl.DataFrame(known)


def table(name: str, meaning: str, *columns: tuple[str, PolarsType, str, str]) -> Table:
    """A table from its columns: name, type, unit, meaning."""
    return Table(
        name=name,
        meaning=meaning,
        columns=tuple(Column(name=n, dtype=t, unit=u, meaning=m) for n, t, u, m in columns),
    )
