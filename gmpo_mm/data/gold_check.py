"""Before any long work: how many golds no short answer can equal, and how many hold a whole solution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gmpo_mm.data.records import Record
from gmpo_mm.verifiers.golds import gold_answer, gold_fault

EXAMPLES = 3
GoldFault = Callable[[str], str | None]
"""What is wrong with a gold in a few words, None for a good one."""


@dataclass(frozen=True)
class GoldReport:
    """What the golds of one data set are. `faults` counts rows none of whose golds is good, by what is wrong."""

    name: str
    rows: int
    faults: dict[str, int]
    examples: tuple[str, ...]
    solutions: int
    solution: str

    @property
    def faulty(self) -> int:
        """Rows that no answer can get right."""
        return sum(self.faults.values())

    @property
    def is_hopeless(self) -> bool:
        """Whether most golds are faulty."""
        return 2 * self.faulty > self.rows

    def notes(self) -> list[str]:
        """What a user should know, a text each; nothing where every gold is a short answer."""
        notes = []
        if self.solutions:
            notes.append(
                f"{self.name}: {self.solutions:,} of {self.rows:,} golds hold a whole solution; the answer in it is "
                f"read, as in {self.solution}"
            )
        if self.faulty:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.faults.items())
            lines = [
                f"{self.name}: {self.faulty:,} of {self.rows:,} golds are no short answer ({kinds}), so hardly any "
                "response will equal them:",
                *(f"  {example}" for example in self.examples),
            ]
            notes.append("\n".join(lines))
        return notes

    def refusal(self, key: str) -> str:
        """Why such data is refused, with the fix; `key` is what names the answers' column."""
        return (
            f"{self.notes()[-1]}\nMost responses would be graded wrong, whatever they say. Name the column of the final "
            f"answers with {key}, or prepare one; of a whole solution a last line '#### 72', answer tags, a "
            r"\boxed{} or 'The answer is 72' is read"
        )


def check_golds(records: Sequence[Record], name: str, fault: GoldFault = gold_fault) -> GoldReport:
    """Look at every gold; a row with several is good when one of them is. The records are usable (`find_faults`)."""
    faults: Counter[str] = Counter()
    examples: list[str] = []
    solutions, solution = 0, ""
    for record in records:
        found = [fault(text) for text in record.answers]
        if all(found):
            faults[str(found[0])] += 1
            if len(examples) < EXAMPLES:
                examples.append(f"{record.where}: {_shown(record.answers[0])} ({found[0]})")
            continue
        read = gold_answer(record.answer).strip()
        if read != record.answer.strip():
            solutions += 1
            solution = solution or f"{record.where}: {_shown(record.answer)} -> {_shown(read)}"
    return GoldReport(name, len(records), dict(faults.most_common()), tuple(examples), solutions, solution)


def _shown(text: str, limit: int = 100) -> str:
    """A text's end, where its answer stands, in quotes and one line."""
    return repr(text if len(text) <= limit else f"...{text[-limit:]}")
