"""Run code on a device that need not be there, and keep account of every byte that would live on it.

Tensors of the planned device are PyTorch's fake tensors: shapes and types without values. Tensors of the host
are real and are computed with, so that layouts, lengths and masks have their true values. What the host has
copied to the device is remembered with its value, and integers computed from it there too; so segments of
variable-length attention are known, and a host that reads back such a number gets it.

Underneath, all fakes live on the CPU: PyTorch's autograd engine has no streams for a CUDA device that isn't
there, and a build without CUDA not even its device guard. Only Python code sees them on the planned device.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from gmpo_mm.errors import ConfigError

BLOCK_BYTES = 512
"""The caching allocator of CUDA hands memory out in multiples of this."""

KNOWN_ELEMENTS = 1 << 22
"""Larger integer tensors of the device are not computed with."""

INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
PACKAGE = str(Path(__file__).parents[1])
PLANNING = str(Path(__file__).parent)
CPU = torch.device("cpu")
aten = torch.ops.aten
Observer = Callable[[Any, dict[str, Any], tuple[Any, ...], Any], None]
"""Called with (operator, arguments by name, positional arguments, result) of every operator of the device."""


class NotPlannableError(ConfigError):
    """The code reads a value that only a real device could give, and goes on by it."""


@dataclass
class Peak:
    """The most bytes that lived at once in a phase, and what they were."""

    total: int = 0
    kinds: dict[str, int] = field(default_factory=dict)


class Account(TorchDispatchMode):
    """`with account:` everything on `device` is faked and counted; the rest runs for real.

    `kinds` are the live bytes by kind: whatever is not registered as something else is an activation, or
    logits when one of its dimensions is the vocabulary. `peaks` are the most of them in each phase. `reads`
    counts, by place in the code, how often the host waited for a value of the device.
    """

    def __init__(
        self, device: torch.device, vocabulary: int = 0, capability: tuple[int, int] = (9, 0)
    ) -> None:
        super().__init__()
        self.device = device
        self.capability = capability
        self.vocabulary = vocabulary
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.observer: Observer | None = None
        self.phase = ""
        self.peaks: dict[str, Peak] = {}
        self.reads: Counter[str] = Counter()
        self._last_read = ("", 0, 0)
        self.live = 0
        self.kinds: Counter[str] = Counter()
        self._storages: dict[int, tuple[str, int]] = {}
        self._building = self._in_kernel = False
        self.inside = False

    # ---- use -------------------------------------------------------------------------------------

    def __enter__(self) -> Account:
        self._seen_as = _seen_on(self)
        self._seen_as.__enter__()
        self.fake_mode.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.fake_mode.__exit__(*error)
        self._seen_as.__exit__(None, None, None)

    @contextmanager
    def phase_of(self, name: str) -> Iterator[None]:
        """Note the peak of what runs inside under `name`."""
        before, self.phase = self.phase, name
        self._note_peak()
        try:
            yield
        finally:
            self.phase = before

    @contextmanager
    def building(self) -> Iterator[None]:
        """Make fakes on the device that are not counted yet, as the weights of a module to be registered."""
        self._building = True
        try:
            with self, self.device:
                yield
        finally:
            self._building = False

    @contextmanager
    def one_kernel(self) -> Iterator[None]:
        """What is made inside and does not outlive it stays in registers, so it adds nothing to a peak."""
        self._in_kernel = True
        try:
            yield
        finally:
            self._in_kernel = False
            self._note_peak()

    def register(self, kind: str, tensors: Iterator[torch.Tensor] | list[torch.Tensor]) -> None:
        """Count the storages of `tensors` as `kind` from now on."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._storages:
                old, size = self._storages[key]
                self.kinds[old] -= size
                self.kinds[kind] += size
                self._storages[key] = (kind, size)
            else:
                self._add(storage, kind)

    # ---- bytes -----------------------------------------------------------------------------------

    def _add(self, storage: torch.UntypedStorage, kind: str) -> None:
        size = storage.nbytes()
        if self.device.type != "cpu":
            size = -(-size // BLOCK_BYTES) * BLOCK_BYTES
        key = storage._cdata
        self._storages[key] = (kind, size)
        self.kinds[kind] += size
        self.live += size
        weakref.finalize(storage, self._free, key).atexit = False
        self._note_peak()

    def _free(self, key: int) -> None:
        kind, size = self._storages.pop(key)
        self.kinds[kind] -= size
        self.live -= size

    def _note_peak(self) -> None:
        peak = self.peaks.setdefault(self.phase, Peak())
        if self.live > peak.total and not self._in_kernel:
            peak.total, peak.kinds = self.live, dict(self.kinds)

    def _track(self, result: Any) -> None:
        for tensor in tree_leaves(result):
            if not isinstance(tensor, torch.Tensor) or not self._is_here(tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self._storages:
                self._add(storage, "logits" if self.vocabulary in tensor.shape[-1:] else "activations")

    def _is_here(self, tensor: torch.Tensor) -> bool:
        return isinstance(tensor, FakeTensor) or self.device.type == "cpu"

    # ---- operators -------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False  # nothing here can page-lock memory, and nothing is copied
        for_card = self._is_card(kwargs.get("device"))
        if for_card:
            kwargs["device"] = CPU
        if self._building:
            return self._faked(func, args, kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if for_card or any(isinstance(x, FakeTensor) for x in tensors):
            result = self._on_device(func, args, kwargs, tensors, for_card)
        else:
            with unset_fake_temporarily():
                result = func(*args, **kwargs)
        self._track(result)
        return result

    def _is_card(self, device: Any) -> bool:
        return (
            device is not None and self.device.type != "cpu" and torch.device(device).type == self.device.type
        )

    def _faked(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator with fake tensors, which see themselves as what they are meanwhile."""
        self.inside = True
        try:
            return func(*args, **kwargs)
        finally:
            self.inside = False

    def _on_device(
        self, func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor], for_card: bool
    ) -> Any:
        if func is torch.ops.prim.device.default:
            return CPU
        if func is aten._local_scalar_dense.default:
            return self._read(args[0])
        if func is aten._to_copy.default and for_card and _keeps_everything_else(args[0], kwargs):
            return self._faked(aten.alias.default, args[:1], {})
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            self._note_read(args[1])
            return args[0]
        known = all(known_value(x) is not None for x in tensors)
        if func is aten.index.Tensor and not known:
            args = self._masks_to_places(args)
        value = _compute_on_host(func, args, kwargs, tensors) if known else None
        try:
            shape = _shape_that_fakes_refuse(func, args, kwargs)
            if shape is None:
                result = self._faked(func, args, kwargs)
            else:
                result = self._faked(aten.new_empty.default, (args[0], shape), {})
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            if value is None:
                raise NotPlannableError(
                    f"{func} at {_place_in_code()} takes its result's shape from values that only a real "
                    "device has; this configuration can't be planned"
                ) from error
            self._note_read(tensors[0])
            result = tree_map_only(torch.Tensor, self._fake_like, value)
        _keep_value(func, result, value, tensors)
        if func in (aten.any.default, aten.any.dim):
            _note(result, is_any=True)
        if self.observer is not None:
            with unset_fake_temporarily():  # it may look at known values
                self.observer(func, _named(func, args, kwargs), args, result)
        return result

    def _fake_like(self, value: torch.Tensor) -> torch.Tensor:
        fake = self._faked(
            aten.empty.memory_format, (list(value.shape),), {"dtype": value.dtype, "device": CPU}
        )
        _note(fake, known_value=value)
        return fake

    def _masks_to_places(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """`values[mask]` with a mask whose values are known, as `values[places]`, whose shape is known."""
        source, indices = args[0], []
        for index in args[1]:
            value = known_value(index) if isinstance(index, torch.Tensor) else None
            if value is None or value.dtype not in (torch.bool, torch.uint8):
                indices.append(index)
                continue
            self._note_read(index)
            with unset_fake_temporarily():
                places = value.nonzero().unbind(1)
            indices += [self._fake_like(place) for place in places]
        return source, indices

    def _read(self, tensor: torch.Tensor) -> Any:
        """What a host gets that asks for a number: where it isn't known, no fault and a finite float."""
        self._note_read(tensor)
        value = known_value(tensor)
        if value is not None:
            with unset_fake_temporarily():
                return value.item()
        if tensor.dtype == torch.bool:
            return not getattr(tensor, "is_any", False)  # "is any of them wrong?", or "are they all right?"
        if tensor.dtype in INTEGERS and self.phase:  # it can be a shape; between phases it is a metric
            raise NotPlannableError(
                f"{_place_in_code()} reads a whole number that only a real device has; this configuration "
                "can't be planned"
            )
        return 1.0 if tensor.is_floating_point() else 1

    def _note_read(self, tensor: torch.Tensor) -> None:
        """Count a wait of the host; `tolist` asks for one element after the other, but a GPU sends all at once."""
        place, storage, offset = _place_in_code(), tensor.untyped_storage()._cdata, int(tensor.storage_offset())
        goes_on = self._last_read[:2] == (place, storage) and offset > self._last_read[2]
        if self.device.type != "cpu" and not goes_on:
            self.reads[place] += 1
        self._last_read = (place, storage, offset)


def known_value(tensor: Any) -> torch.Tensor | None:
    """The true value of a host's tensor, or of a device's tensor where it is known."""
    if isinstance(tensor, FakeTensor):
        return getattr(tensor, "known_value", None)
    return tensor if isinstance(tensor, torch.Tensor) and tensor.dtype in INTEGERS else None


def _keeps_everything_else(tensor: torch.Tensor, kwargs: Mapping[str, Any]) -> bool:
    """Whether `to` names the device where a tensor is, which PyTorch's C++ does not see, and nothing else."""
    same_type = kwargs.get("dtype") in (None, tensor.dtype)
    return isinstance(tensor, FakeTensor) and same_type and kwargs.get("memory_format") is None


def _compute_on_host(func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor]) -> Any:
    """The result of an operator over known integers; None when it is large, or no integers."""
    if kwargs.get("dtype") not in (None, *INTEGERS) or any(x.numel() > KNOWN_ELEMENTS for x in tensors):
        return None
    size = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    if all(isinstance(x, int) for x in size) and torch.Size(size).numel() > KNOWN_ELEMENTS:
        return None
    args, kwargs = tree_map_only(torch.Tensor, known_value, (args, kwargs))
    with unset_fake_temporarily():
        value = func(*args, **kwargs)
    return (
        value
        if all(isinstance(x, torch.Tensor) and x.dtype in INTEGERS for x in tree_leaves(value))
        else None
    )


def _note(fake: Any, **facts: Any) -> None:
    """Remember something about a fake tensor, on the tensor itself."""
    vars(fake).update(facts)


def _shape_that_fakes_refuse(func: Any, args: Any, kwargs: Any) -> list[int] | None:
    """Shape of a result where an operator's kernel takes types that PyTorch's fake of it refuses."""
    if func is aten.histc.default and args[0].dtype in INTEGERS:
        return [kwargs.get("bins", args[1] if len(args) > 1 else 100)]
    if func is aten._grouped_mm.default and args[0].dtype != torch.bfloat16:
        left, right = args[:2]
        groups = kwargs.get("offs", args[2] if len(args) > 2 else None)
        outer = (
            [groups.shape[0]]
            if left.dim() == right.dim() == 2 and groups is not None
            else list(left.shape[:-2])
        )
        return [*outer, left.shape[-2], right.shape[-1]]
    return None


def _keep_value(func: Any, result: Any, value: Any, tensors: list[torch.Tensor]) -> None:
    if value is not None:
        for fake, known in zip(tree_leaves(result), tree_leaves(value), strict=True):
            _note(fake, known_value=known)
    elif func._schema.is_mutable:  # an unknown value was written into it
        for tensor in tensors[:1]:
            if isinstance(tensor, FakeTensor) and getattr(tensor, "known_value", None) is not None:
                _note(tensor, known_value=None)


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """An operator's arguments under their names."""
    return {a.name: value for a, value in zip(func._schema.arguments, args)} | kwargs


def _place_in_code() -> str:
    """File and line of this package's innermost frame that is not of the planning."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE) and not name.startswith(PLANNING):
            return f"{name[len(PACKAGE) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside of gmpo_mm"


@contextmanager
def _seen_on(account: Account) -> Iterator[None]:
    """Let Python see the account's fakes on its device, and autocast for that device work on them."""
    if account.device.type == "cpu":
        yield
        return
    fakes: Any = FakeTensor
    true_device, autocast = fakes.device, torch.autocast.__init__
    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype

    def theirs(kind: str | None) -> str:
        return "cpu" if kind in (None, account.device.type) else str(kind)

    def start_autocast(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        autocast(self, theirs(device_type), *args, **kwargs)

    replaced: list[tuple[Any, str, Any]] = [
        (
            fakes,
            "device",
            property(lambda fake: true_device.fget(fake) if account.inside else account.device),
        ),
        (fakes, "is_cuda", property(lambda fake: not account.inside)),
        (torch.autocast, "__init__", start_autocast),
        (torch, "is_autocast_enabled", lambda kind=None: enabled(theirs(kind))),
        (torch, "get_autocast_dtype", lambda kind: dtype(theirs(kind))),
        (torch.cuda, "get_device_capability", lambda device=None: account.capability),
        (torch.Tensor, "pin_memory", lambda tensor, *_: tensor),
    ]
    with ExitStack() as stack:
        for holder, name, value in replaced:
            stack.enter_context(_replaced(holder, name, value))
        yield


@contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute another value for a while; one that was only inherited is taken away again."""
    own, before = name in vars(holder), getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before) if own else delattr(holder, name)
