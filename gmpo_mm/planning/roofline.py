"""What each operator moves and computes, and the least time that a card needs for it.

An operator takes the longer of its arithmetic and its memory traffic at the shares of the data sheet's
numbers that are stated in `cards`, and the time of a launch. Views are free.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gmpo_mm.models.cards import REACHED, Card
from gmpo_mm.planning.account import known_value

PRODUCTS, ATTENTION, HEAD, LAYERS, VISION, OPTIMIZER, COPIES = CLASSES = (
    "matrix products",
    "attention",
    "head and embedding",
    "elementwise",
    "vision",
    "optimizer",
    "copies",
)

ATTENTION_NAMES = (
    "_flash_attention_",
    "_varlen_attn",
    "_efficient_attention_",
    "_scaled_dot_product_",
    "_cudnn_attention_",
    "flex_attention",
)
COPY_NAMES = {
    "_to_copy",
    "copy_",
    "clone",
    "cat",
    "index_select",
    "index",
    "index_put_",
    "index_put",
    "index_add",
    "index_add_",
    "index_copy",
    "index_copy_",
    "zeros_like",
    "new_zeros",
    "zeros",
    "zero_",
    "fill_",
    "stack",
    "constant_pad_nd",
    "slice_backward",
    "select_backward",
    "repeat",
    "ones_like",
    "embedding",
    "embedding_dense_backward",
}
READS_ITS_RESULT_ONLY = {"embedding", "index_select", "gather", "index"}
TOUCHES_ITS_SOURCE_ONLY = {"index_put_", "scatter_", "scatter_add_", "index_copy_", "index_add_"}
WRITES_ONLY = {"copy_", "zero_", "fill_"}
READS_A_SHAPE = {
    "zeros_like",
    "ones_like",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "rand_like",
    "randn_like",
}
NO_LAUNCH = {
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "_unsafe_view",
    "lift_fresh",
    "detach",
}


@dataclass
class Row:
    """Sums over the operators of a class."""

    launches: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0


@dataclass
class OperatorTable:
    """Operators of a piece of work by class, and by class and name.

    `upper_bounds` counts calls of attention whose segments' lengths were not known: each counts as the longest.
    """

    card: Card
    vocabulary: int = 0
    region: str = ""
    rows: dict[str, Row] = field(default_factory=dict)
    operators: dict[tuple[str, str], Row] = field(default_factory=dict)
    upper_bounds: int = 0
    _fused: _Fused | None = None

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows.values())

    @property
    def launches(self) -> int:
        return sum(row.launches for row in self.rows.values())

    def add(self, func: Any, named: dict[str, Any], args: tuple[Any, ...], result: Any) -> None:
        """Take an operator down; its tensors may be fake."""
        name = func._schema.name.split("::")[-1]
        if name in NO_LAUNCH:
            return
        inputs = _distinct(x for x in tree_leaves(list(named.values())) if isinstance(x, torch.Tensor))
        outputs = _distinct(x for x in tree_leaves(result) if isinstance(x, torch.Tensor))
        places = {_storage(x) for x in inputs}
        fresh = [x for x in outputs if _storage(x) not in places]
        if outputs and not fresh and not func._schema.is_mutable:
            return  # a view
        attention = any(part in name for part in ATTENTION_NAMES)
        pairs, exact = _attention_pairs(named) if attention else (0.0, True)
        self.upper_bounds += not exact
        flops = _attention_flops(name, named, pairs) if attention else _flops(func, named, args, result)
        kind = self._class(name, attention, flops, [*inputs, *outputs])
        if self._fused is not None and not flops:
            self._fused.add(kind, inputs, fresh, _changed(func, named), reads=name not in READS_A_SHAPE)
            return
        moved = _traffic(name, func, named, inputs, fresh)
        rate = self._rate(name, attention, named, inputs)
        seconds = max(flops / rate, moved / (self.card.bandwidth * REACHED.bandwidth))
        self._book(kind, name, flops, moved, seconds)

    def _book(self, kind: str, name: str, flops: float, moved: float, seconds: float) -> None:
        for row in (self.rows.setdefault(kind, Row()), self.operators.setdefault((kind, name), Row())):
            row.launches += 1
            row.flops += flops
            row.bytes += moved
            row.seconds += seconds + REACHED.launch_seconds

    def _class(self, name: str, attention: bool, flops: float, tensors: list[torch.Tensor]) -> str:
        if self.region:
            return self.region
        if attention:
            return ATTENTION
        if any(self.vocabulary in x.shape for x in tensors):
            return HEAD
        return PRODUCTS if flops else COPIES if name in COPY_NAMES else LAYERS

    def _rate(self, name: str, attention: bool, named: dict[str, Any], inputs: list[torch.Tensor]) -> float:
        """FLOP/s."""
        floats = [x for x in inputs if x.is_floating_point()]
        half = bool(floats) and all(x.element_size() == 2 for x in floats[:2])
        peak = self.card.bf16 if half else self.card.float32
        if not attention:
            return peak * REACHED.products
        backward = "backward" in name
        if named.get("attn_mask") is not None or named.get("attn_bias") is not None:
            return peak * (REACHED.masked_backward if backward else REACHED.masked_forward)
        return peak * (REACHED.attention_backward if backward else REACHED.attention_forward)

    @contextmanager
    def in_region(self, name: str) -> Iterator[None]:
        """Book what runs inside under `name`, whatever it is."""
        before, self.region = self.region, name
        try:
            yield
        finally:
            self.region = before

    @contextmanager
    def fused(self, name: str = "fused") -> Iterator[None]:
        """Elementwise operators inside are one kernel: it reads what comes from outside, writes what stays."""
        self._fused = fused = _Fused()
        try:
            yield
        finally:
            self._fused = None
        moved = fused.traffic()
        seconds = moved / (self.card.bandwidth * REACHED.bandwidth)
        self._book(self.region or fused.kind, name, 0.0, moved, seconds)


@dataclass
class _Fused:
    """What one kernel reads and writes, by storage: pieces of those from outside, and its own that may outlive it."""

    kind: str = LAYERS
    read: dict[int, dict[tuple[int, int], int]] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    made: dict[int, tuple[weakref.ref, int]] = field(default_factory=dict)

    def add(
        self,
        kind: str,
        inputs: list[torch.Tensor],
        fresh: list[torch.Tensor],
        changed: list[torch.Tensor],
        reads: bool,
    ) -> None:
        if kind == HEAD:
            self.kind = HEAD
        for tensor in changed:
            if _storage(tensor) not in self.made:
                self.written[_storage(tensor)] = _bytes(tensor)
        for tensor in inputs if reads else []:
            place = _storage(tensor)
            if place not in self.made and all(tensor is not x for x in changed):
                self.sizes[place] = tensor.untyped_storage().nbytes()
                self.read.setdefault(place, {})[int(tensor.storage_offset()), tensor.numel()] = _bytes(tensor)
        for tensor in fresh:
            self.made[_storage(tensor)] = (weakref.ref(tensor.untyped_storage()), _bytes(tensor))

    def traffic(self) -> int:
        """Bytes."""
        read = sum(min(sum(pieces.values()), self.sizes[place]) for place, pieces in self.read.items())
        stays = sum(size for alive, size in self.made.values() if alive() is not None)
        return read + sum(self.written.values()) + stays


def _distinct(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(x): x for x in tensors}.values())


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: torch.Tensor) -> int:
    """Bytes of distinct elements: a dimension that is only expanded holds one."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()


def _traffic(
    name: str, func: Any, named: dict[str, Any], inputs: list[torch.Tensor], fresh: list[torch.Tensor]
) -> float:
    """Bytes read and written."""
    written = sum(_bytes(x) for x in fresh)
    if name in READS_A_SHAPE:
        return written
    if name in READS_ITS_RESULT_ONLY:
        return 2 * written
    changed = _changed(func, named)
    if name in TOUCHES_ITS_SOURCE_ONLY:
        return 3 * sum(
            _bytes(x) for x in inputs if all(x is not y for y in changed) and x.is_floating_point()
        )
    read = sum(_bytes(x) for x in inputs)
    if name in WRITES_ONLY:
        read -= _bytes(changed[0])
    return read + written + sum(_bytes(x) for x in changed)


def _changed(func: Any, named: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that an operator writes into."""
    return [
        x
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
        for x in tree_leaves(named.get(argument.name))
        if isinstance(x, torch.Tensor)
    ]


def _flops(func: Any, named: dict[str, Any], args: tuple[Any, ...], result: Any) -> float:
    if (
        func._schema.name == "aten::_grouped_mm"
    ):  # every token with the matrix of its expert, or experts' own outer products
        return 2.0 * named["self"].numel() * named["mat2"].shape[-1]
    formula = flop_registry.get(func._overloadpacket)
    if formula is None:
        return 0.0
    values = [named[a.name] for a in func._schema.arguments if a.name in named and not a.kwarg_only]
    return float(formula(*values, **{k: v for k, v in named.items() if _is_keyword(func, k)}, out_val=result))


def _is_keyword(func: Any, name: str) -> bool:
    return any(a.name == name and a.kwarg_only for a in func._schema.arguments)


# ---- attention -----------------------------------------------------------------------------------


def _attention_flops(name: str, named: dict[str, Any], pairs: float) -> float:
    """Two products a pair forward; backward five, as the kernels compute the scores again."""
    query = named["query"]
    heads, width = query.shape[1], query.shape[-1]
    return (10 if "backward" in name else 4) * heads * width * pairs


def _attention_pairs(named: dict[str, Any]) -> tuple[float, bool]:
    """(Query, key) pairs that are computed, and whether they are exact or an upper bound."""
    causal = bool(named.get("is_causal", False)) or list(named.get("window_size") or [])[1:] == [0]
    query_starts = _first(named, "cu_seq_q", "cum_seq_q", "cu_seqlens_q")
    if query_starts is None:
        query, key = named["query"], named["key"]
        return query.shape[0] * _pairs(query.shape[2], key.shape[2], causal), True
    key_starts = _first(named, "cu_seq_k", "cum_seq_k", "cu_seqlens_k")
    starts, ends = known_value(query_starts), known_value(key_starts)
    if starts is None or ends is None:
        longest_q, longest_k = _first(named, "max_q", "max_seqlen_q"), _first(named, "max_k", "max_seqlen_k")
        return (query_starts.shape[0] - 1) * _pairs(longest_q, longest_k, causal), False
    queries, keys = starts.tolist(), ends.tolist()
    lengths = zip(_differences(queries), _differences(keys), strict=True)
    return sum(_pairs(q, k, causal) for q, k in lengths), True


def _first(named: dict[str, Any], *names: str) -> Any:
    return next((named[name] for name in names if named.get(name) is not None), None)


def _differences(starts: list[int]) -> list[int]:
    return [b - a for a, b in pairwise(starts)]


def _pairs(queries: int, keys: int, causal: bool) -> float:
    """Pairs of one sequence; a causal query sees the keys up to its own place, counted from the end."""
    if not causal:
        return float(queries * keys)
    seen = min(queries, keys)
    return seen * (keys - seen) + seen * (seen + 1) / 2
