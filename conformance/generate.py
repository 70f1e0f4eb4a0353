"""Makes the vectors: `python -m conformance.generate [FOLDER]`. The same seed gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from conformance import advantages, corrections, reference
from conformance.cases import SOURCES, every_case

FORMAT = 1
SEED = 20260
FOLDER = Path(__file__).parent / "vectors"
SUMS = "SHA256SUMS"
# each response: length, advantage, what is added to its log-ratios
MIXED = (
    (6, 1.5, 0.0), (1, -1.0, -0.9), (0, 0.7, 0.0), (4, -0.8, -1.0), (5, 1.2, 0.55), (3, 0.0, 0.3),
    (6, -1.3, -0.45), (2, 0.6, -0.5), (4, -0.6, 1.3), (1, 2.0, 0.7), (5, -1.7, 0.5), (6, 0.4, 0.15),
)  # fmt: skip
FAR = (
    (5, 1.1, 11.0), (4, -0.7, 11.0), (3, -1.2, -11.0), (5, 0.9, -11.0), (0, -0.4, 0.0), (5, 1.6, 0.0),
    (5, -1.4, 0.0), (2, 0.0, 7.0), (1, -0.5, 5.0), (4, 0.8, 0.2),
)  # fmt: skip
FAR_SHARE = 0.3
"""Of the tokens of `FAR` whose response is not far away itself."""
EVERY_ROW = list(range(len(MIXED)))
CUTS = {
    "whole": [EVERY_ROW],
    "halves": [EVERY_ROW[:6], EVERY_ROW[6:]],
    "rows": [[i] for i in EVERY_ROW],
    "uneven": [EVERY_ROW[:1], EVERY_ROW[1:5], EVERY_ROW[5:]],
}
DIGITS = 13
"""Of what is written: fewer than a float has, so that the last bit of a machine's exp() does not change the
bytes."""


def make_batches() -> dict[str, dict[str, Any]]:
    """`mixed`: log-ratios on both sides of every bound. `far`: some as large as 11, in whole responses and in
    single tokens. `padding`: the numbers of `mixed`, and others than 0 where the mask is 0, which must have
    no effect."""
    rng = random.Random(SEED)
    mixed, far = _batch(rng, MIXED, 0.0), _batch(rng, FAR, FAR_SHARE)
    padding = {name: [list(row) for row in mixed[name]] for name in mixed}
    for i, row in enumerate(padding["mask"]):
        for t, valid in enumerate(row):
            if not valid:
                for name in ("log_probs", "old_log_probs", "ref_log_probs"):
                    padding[name][i][t] = -round(rng.uniform(0.1, 5), 3)
                padding["advantages"][i][t] = round(rng.uniform(-3, 3), 1)
    return {"mixed": mixed, "far": far, "padding": padding}


def _batch(
    rng: random.Random, rows: tuple[tuple[int, float, float], ...], far_share: float
) -> dict[str, Any]:
    names = ("log_probs", "old_log_probs", "ref_log_probs", "advantages", "mask")
    batch: dict[str, list[list[Any]]] = {name: [[] for _ in rows] for name in names}
    for i, (length, advantage, shift) in enumerate(rows):
        for t in range(max(row[0] for row in rows)):
            values = (*_token(rng, shift, far_share), advantage, 1) if t < length else (0.0, 0.0, 0.0, 0.0, 0)
            for name, value in zip(names, values, strict=True):
                batch[name][i].append(value)
    return batch


def _token(rng: random.Random, shift: float, far_share: float) -> tuple[float, float, float]:
    """log pi, log pi_old, log pi_ref: the larger of the first two is between -1.6 and -0.05."""
    d = rng.choice((0.0, 0.1, -0.1, 0.3, -0.3, 0.7)) + shift + rng.uniform(-0.09, 0.09)
    if abs(shift) < 1 and rng.random() < far_share:
        d += rng.choice((-10.0, 7.0))
    largest = -rng.uniform(0.05, 1.6)
    log_prob, old = round(min(largest, largest + d), 3), round(min(largest, largest - d), 3)
    return log_prob, old, round(min(log_prob + rng.uniform(-0.9, 0.9), -0.01), 3)


def _cuts(batch_name: str, batch: dict[str, Any], loss: str) -> dict[str, list[list[int]]]:
    if batch_name == "mixed" and loss not in reference.RANKING:
        return CUTS
    return {"whole": [list(range(len(batch["mask"])))]}


def make_vectors() -> dict[str, dict[str, Any]]:
    """name of a file, without .json -> its content."""
    batches = make_batches()
    vectors = {}
    for loss, cases in every_case().items():
        own = {name: {**batch, "cuts": _cuts(name, batch, loss)} for name, batch in batches.items()}
        vectors[loss] = {
            "format": FORMAT,
            "loss": loss,
            "source": SOURCES[loss],
            "batches": own,
            "cases": [_case(f"{loss}: {name}", config, batches) for name, config in cases.items()],
        }
    vectors["corrections"] = _corrections(batches)
    vectors["advantages"] = _advantages()
    return vectors


def _corrections(batches: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The batches of the losses, so that a correction that is not read gives a result that is known."""
    rng = random.Random(SEED)
    batches = {
        name: {**batch, "sampler_log_probs": corrections.sampler_log_probs(rng, name, batch)}
        for name, batch in batches.items()
    }
    return {
        "format": FORMAT,
        "corrections": list(corrections.KINDS),
        "source": corrections.SOURCE,
        "batches": {name: {**batch, "cuts": _cuts(name, batch, "")} for name, batch in batches.items()},
        "cases": [
            _case(f"corrections: {name}", config, batches) for name, config in corrections.CASES.items()
        ],
    }


def _case(name: str, config: dict[str, Any], batches: dict[str, Any]) -> dict[str, Any]:
    expected = {}
    for batch_name, batch in batches.items():
        result = reference.evaluate(config, batch)
        expected[batch_name] = {
            "loss": _digits(result.loss),
            "grad": [[_digits(x) for x in row] for row in result.grad],
            "clip_share": {key: _digits(share) for key, share in result.clip_share.items()},
        }
    return {"name": name, "config": config, "expected": expected}


def _advantages() -> dict[str, Any]:
    batches = advantages.make_batches(random.Random(SEED))
    cases = []
    for name, config in advantages.CASES.items():
        found = {
            batch_name: {
                "advantages": [[_digits(x) for x in row] for row in advantages.evaluate(config, batch)]
            }
            for batch_name, batch in batches.items()
            if batch_name in advantages.ONLY_IN.get(config["advantages"], batches)
        }
        cases.append({"name": f"advantages: {name}", "config": config, "expected": found})
    return {"format": FORMAT, "source": advantages.SOURCE, "batches": batches, "cases": cases}


def _digits(x: float) -> float:
    if not math.isfinite(x):
        raise ValueError(f"a reference gave {x}")
    return float(f"{x:.{DIGITS}g}") + 0.0  # no -0


def to_text(value: Any, indent: str = "") -> str:
    """JSON with one line for each list of numbers."""
    inner = indent + " "
    if isinstance(value, dict) and value:
        items = (f"{inner}{json.dumps(key)}: {to_text(item, inner)}" for key, item in value.items())
        return "{\n" + ",\n".join(items) + "\n" + indent + "}"
    if isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        return "[\n" + ",\n".join(inner + to_text(item, inner) for item in value) + "\n" + indent + "]"
    return json.dumps(value, allow_nan=False)


def write(folder: Path) -> None:
    """All files, and their sums in the form of `sha256sum`."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = []
    for name, content in make_vectors().items():
        text = to_text(content) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")
        sums.append(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}.json\n")
    (folder / SUMS).write_text("".join(sums), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
