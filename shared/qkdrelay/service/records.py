"""Objects kept as rows of a table: how each field is kept is declared once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column:
    """One field, in a column of its name."""

    name: str
    sql: str
    """Type and constraint."""
    write: Callable[[Any], object] | None = None
    """Returns what is stored of a value; None: the value itself."""
    read: Callable[[Any], Any] | None = None
    """Returns the value of what is stored; None: just that."""
    changes: bool = False
    """Whether it may be another when the object is kept again."""


class Record(Generic[T]):
    """The columns of objects of one kind, and the conversions from and to their rows."""

    def __init__(self, kind: Callable[..., T], *columns: Column) -> None:
        """``kind`` makes an object of its fields; all others that it has must have a default."""
        self._kind, self.columns = kind, columns
        self.names = [column.name for column in columns]
        self.schema = ", ".join(f"{column.name} {column.sql}" for column in columns)
        """For CREATE TABLE."""
        self.changing = [column.name for column in columns if column.changes]
        self._fields = attrgetter(*self.names)
        self._writes = [(place, column.write) for place, column in enumerate(columns) if column.write is not None]

    def row(self, it: T) -> list[object]:
        """Return what is stored of an object, in the order of ``names``."""
        values = list(self._fields(it))
        for place, write in self._writes:
            values[place] = write(values[place])
        return values

    def read(self, row: Iterable[Any]) -> T:
        """Return the object of a row; raises whatever ``read`` of a column raises if it is not one."""
        pairs = zip(self.columns, row, strict=True)
        return self._kind(**{c.name: value if c.read is None else c.read(value) for c, value in pairs})
