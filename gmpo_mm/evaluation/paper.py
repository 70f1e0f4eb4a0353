"""The paper's accuracies (arXiv 2507.20673, tables 1 to 5) as data, to stand beside ours and to be marked as the paper's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from gmpo_mm.evaluation.results import Protocol

FILE = Path(__file__).parent / "paper_tables.yaml"
MAIN_TABLES = (1, 2, 3)


@dataclass(frozen=True)
class PaperProtocol:
    """How the paper sampled, as far as it says; None is not said."""

    name: str
    temperature: float
    n: int
    max_tokens: int | None

    def describe(self) -> str:
        """`language: greedy, n 1, 3000 tokens`."""
        sampling = "greedy" if self.temperature == 0 else f"T {self.temperature:g}"
        length = "length not said" if self.max_tokens is None else f"{self.max_tokens} tokens"
        return f"{self.name}: {sampling}, n {self.n}, {length}"

    def fits(self, protocol: Protocol) -> bool:
        """Whether a result under `protocol` may stand beside the number: nothing that the paper says is different."""
        return (
            self.temperature == protocol.temperature
            and self.n == protocol.n
            and self.max_tokens in (None, protocol.max_tokens)
            and (protocol.temperature == 0 or (protocol.top_p == 1 and protocol.top_k <= 0))
        )


@dataclass(frozen=True)
class PaperNumber:
    """One accuracy as the paper prints it, in percent."""

    model: str
    method: str
    """GMPO, GRPO, Dr. GRPO, none (the model before reinforcement learning) or other."""
    base_model: str | None
    benchmark: str
    value: float
    table: str
    """Where it stands: `Table 1`, `Tables 1 and 3`."""
    protocol: PaperProtocol
    note: str = ""
    source: str = ""

    @property
    def mark(self) -> str:
        """What a report puts beside the number: `the paper's, Table 1 of arXiv 2507.20673`."""
        return f"the paper's, {self.table} of {self.source}"


@dataclass(frozen=True)
class PaperRow:
    """One row of a table, with the average over its benchmarks as printed (None where the table has none)."""

    table: int
    numbers: tuple[PaperNumber, ...]
    average: float | None


def paper_numbers(benchmark: str, tables: tuple[int, ...] = MAIN_TABLES) -> list[PaperNumber]:
    """The paper's numbers for one of our benchmarks, in the paper's order; [] for one that it doesn't have.

    A number that several of the tables repeat comes once, with all its tables.
    """
    found: dict[tuple[Any, ...], PaperNumber] = {}
    places: dict[tuple[Any, ...], list[str]] = {}
    for row in paper_rows():
        for number in row.numbers:
            if row.table in tables and number.benchmark == benchmark:
                key = (number.model, number.base_model, number.value)
                found.setdefault(key, number)
                places.setdefault(key, []).append(str(row.table))
    return [
        replace(number, table=f"{'Tables' if len(places[key]) > 1 else 'Table'} {' and '.join(places[key])}")
        for key, number in found.items()
    ]


@lru_cache(maxsize=1)
def paper_rows() -> tuple[PaperRow, ...]:
    """All rows of all tables, as printed."""
    data = _data()
    protocols = {name: PaperProtocol(name, **values) for name, values in data["protocols"].items()}
    return tuple(
        _row(table, row, protocols[table["protocol"]], data["source"]) for table in data["tables"] for row in table["rows"]
    )


@dataclass(frozen=True)
class PaperComparison:
    """A difference that the paper speaks of: row B - row A of one table."""

    table: int
    a: PaperRow
    b: PaperRow


def paper_comparisons() -> list[PaperComparison]:
    """The differences of all tables, in their order."""
    tables, rows = _data()["tables"], iter(paper_rows())
    found = []
    for table in tables:
        own = [next(rows) for _ in table["rows"]]
        found += [PaperComparison(table["number"], own[a], own[b]) for a, b in table.get("compared", ())]
    return found


def paper_problems(benchmark: str) -> int:
    """How many problems the paper's benchmark has."""
    return int(_data()["problems"][benchmark])


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return data


def _row(table: dict[str, Any], row: dict[str, Any], protocol: PaperProtocol, source: str) -> PaperRow:
    if "max_tokens" in row:
        protocol = replace(protocol, name=f"{protocol.name}(max_tokens={row['max_tokens']})", max_tokens=row["max_tokens"])
    numbers = tuple(
        PaperNumber(
            row["model"], row["method"], row["base"], benchmark, value, f"Table {table['number']}", protocol,
            row.get("note", ""), source,
        )
        for benchmark, value in zip(table["benchmarks"], row["values"], strict=True)
    )  # fmt: skip
    return PaperRow(table["number"], numbers, row.get("average"))
