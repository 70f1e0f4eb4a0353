"""The map of a sweep: every variant (a row) at every value of an axis (a column), once for each panel.

    map:
      axis:
        label: learning rate
        values:                              # the columns, in order
          slow: {label: "1e-4", overrides: [worker.actor.optim.lr=1.0e-4]}
          fast: {label: "5e-4", overrides: [worker.actor.optim.lr=5.0e-4]}
      panels:                                # optional: a map of its own for each
        text: {label: CountDown, base: configs/countdown/gmpo_moe_tiny.yaml, columns: [slow]}
      collapse_kl: 1.0                       # the report calls a run with a larger KL collapsed
      exponents: {gmpo: 0, grpo: 1}          # rows of the report's atlas along p

The runs are those of variants called PANEL_ROW_COLUMN (ROW_COLUMN without panels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

MAP_KEYS = ("axis", "panels", "collapse_kl", "exponents")
AXIS_KEYS = ("label", "values")
COLUMN_KEYS = ("label", "overrides")
PANEL_KEYS = ("label", "base", "overrides", "columns")
COLLAPSE_KL = 1.0
"""Nats a token, of the KL to the model before training: beyond it little is left of that model."""


@dataclass(frozen=True)
class Variant:
    """One arm of a sweep. `base` and `overrides` are its own; the sweep's come before them."""

    name: str
    label: str
    base: str | None = None
    overrides: tuple[str, ...] = ()
    paper_line: int | None = None


@dataclass(frozen=True)
class Place:
    """A column or a panel: what it is called, and what it sets."""

    name: str
    label: str
    base: str | None = None
    overrides: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """Of a panel: the columns that it has, all where empty."""


@dataclass(frozen=True)
class SweepMap:
    """Rows, columns and panels of a sweep whose variants form a grid."""

    axis: str
    """What the columns are."""
    rows: tuple[Variant, ...]
    """The variants as the file has them."""
    columns: tuple[Place, ...]
    panels: tuple[Place, ...] = ()
    collapse_kl: float = COLLAPSE_KL
    exponents: Mapping[str, float] = field(default_factory=dict)
    """Row -> p of the power mean that it is."""

    def variants(self) -> tuple[Variant, ...]:
        """Every row at every column of every panel. Where two set one key, the column's value counts, else the row's."""
        return tuple(
            replace(
                row,
                name=_joined(panel.name, row.name, column.name),
                label=f"{panel.label}: {row.label}, {column.label}"
                if panel.name
                else f"{row.label}, {column.label}",
                base=row.base or panel.base,
                overrides=(*panel.overrides, *row.overrides, *column.overrides),
            )
            for panel, column, row in self._cells()
        )

    def to_json(self, saved: Callable[[str, Any], Any]) -> dict[str, Any]:
        """For sweep.json, which the report reads. `saved`: key of the sweep file and value -> the value as it may be saved."""

        def named(key: str, some: Sequence[Place | Variant]) -> list[dict[str, str]]:
            return [{"name": one.name, "label": saved(f"{key}.{one.name}.label", one.label)} for one in some]

        return {
            "axis": saved("map.axis.label", self.axis), "rows": named("variants", self.rows),
            "columns": named("map.axis.values", self.columns), "panels": named("map.panels", self.panels),
            "cells": {
                _joined(panel.name, row.name, column.name): [panel.name, row.name, column.name]
                for panel, column, row in self._cells()
            },
            "collapse_kl": self.collapse_kl, "exponents": dict(self.exponents),
        }  # fmt: skip

    def _cells(self) -> Iterator[tuple[Place, Place, Variant]]:
        for panel in self.panels or (Place("", ""),):
            for column in self.columns:
                if not panel.columns or column.name in panel.columns:
                    yield from ((panel, column, row) for row in self.rows)


def _joined(*names: str) -> str:
    return "_".join(filter(None, names))
