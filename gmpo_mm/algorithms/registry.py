"""Names of policy losses: one decorator registers one function, ours or a user's."""

import difflib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from torch import Tensor

from gmpo_mm.algorithms.config import PolicyLossConfig, loss_keys


@dataclass(frozen=True)
class LossTerms:
    """What a loss function returns if it has more to say than its losses.

    ``losses`` is (B, T), or (B,) for a loss whose unit is the sequence. ``token_flags`` maps a metric name to a bool
    tensor (B, T) or (B,); the fraction of valid tokens on which it is True is logged under that name. A function that
    returns such a dictionary is called only when metrics are wanted.
    """

    losses: Tensor
    token_flags: dict[str, Tensor] | Callable[[], dict[str, Tensor]] = field(default_factory=dict)


LossFunction = Callable[[Tensor, Tensor, Tensor, Tensor, PolicyLossConfig], "Tensor | LossTerms"]


@dataclass(frozen=True)
class RegisteredLoss:
    """A loss function with what the frame around it has to know (see ``register_policy_loss``)."""

    name: str
    function: LossFunction
    unit: str
    reads: frozenset[str]
    sequence_advantages: bool
    by_row: bool


_DEFAULT = "worker.actor.loss_type=default"
_GRPO = f"{_DEFAULT} algorithm.adv_estimator=grpo"
OTHER_NAMES = {
    "grpo": _GRPO,
    "ppo": _DEFAULT,
    "vanilla": _DEFAULT,
    "clip": _DEFAULT,
    "ppo_clip": _DEFAULT,
    "dual_clip": _DEFAULT,
    "token": _DEFAULT,
    "bnpo": f"{_GRPO} worker.actor.loss_avg_mode=token",
    "dapo": f"{_GRPO} worker.actor.loss_avg_mode=token worker.actor.clip_ratio_low=0.2 worker.actor.clip_ratio_high=0.28",
    "dr_grpo": f"{_DEFAULT} algorithm.adv_estimator=dr_grpo",
    "drgrpo": f"{_DEFAULT} algorithm.adv_estimator=dr_grpo",
    "vanilla_pg": "worker.actor.loss_type=reinforce",
    "policy_gradient": "worker.actor.loss_type=reinforce",
    "rloo": f"{_DEFAULT} algorithm.adv_estimator=rloo",
    "remax": f"{_DEFAULT} algorithm.adv_estimator=remax",
    "reinforce++": f"{_DEFAULT} algorithm.adv_estimator=reinforce_plus_plus",
    "reinforce_plus_plus": f"{_DEFAULT} algorithm.adv_estimator=reinforce_plus_plus",
    "pmpo": "worker.actor.loss_type=power_mean",
    "holder_po": "worker.actor.loss_type=power_mean",
    "holderpo": "worker.actor.loss_type=power_mean",
    "power-mean": "worker.actor.loss_type=power_mean",
    "geo_mean": "worker.actor.loss_type=gmpo",
    "geometric_mean": "worker.actor.loss_type=gmpo",
    "gspo-token": "worker.actor.loss_type=gspo_token",
    "dppo": "worker.actor.loss_type=dppo_tv (or dppo_kl)",
    "dppo-tv": "worker.actor.loss_type=dppo_tv",
    "binary_tv": "worker.actor.loss_type=dppo_tv",
    "dppo-kl": "worker.actor.loss_type=dppo_kl",
    "binary_kl": "worker.actor.loss_type=dppo_kl",
    "clip-cov": "worker.actor.loss_type=clip_cov",
    "kl-cov": "worker.actor.loss_type=kl_cov",
    "future_kl": "worker.actor.loss_type=fipo",
    "sequence": "worker.actor.loss_type=gspo",
}
"""What other projects call a loss, or call what is an estimator of advantages here -> the keys that train it."""

UNITS = ("loss_avg_mode", "sequence")
_REGISTRY: dict[str, RegisteredLoss] = {}
_FILES: dict[Path, ModuleType] = {}
_FILE_MODULE_PREFIX = "gmpo_mm_policy_loss_file_"
_ATTRIBUTE = "registered_policy_loss"
_ALL_KEYS = frozenset(loss_keys())


def register_policy_loss(
    name: str,
    *,
    unit: str = "loss_avg_mode",
    reads: Iterable[str] = (),
    sequence_advantages: bool = False,
    by_row: bool = False,
) -> Callable[[LossFunction], LossFunction]:
    """Make a function a policy loss under ``name``.

    The function is called as ``fn(log_probs_BT, old_log_probs_BT, advantages_BT, response_mask_BT, config)`` with
    everything prepared: float32 at least, masked entries 0, only ``log_probs_BT`` with a gradient. It returns the loss
    of each token (B, T), or of each sequence (B,) when its unit is the sequence, or ``LossTerms``. Masking, weights,
    the sum and the common metrics are not its business.

    Args:
        name: the ``loss_type``; not needed again when the loss lives in a user's file.
        unit: ``sequence`` if the loss is a mean over sequences whatever the config says, else ``loss_avg_mode``.
        reads: the config keys, relative to ``worker.actor``, that the loss reads (``clip_ratio_low``,
            ``gmpo.normalize``, ...); any other clip key is an error when a config file sets it.
        sequence_advantages: the loss needs one advantage a sequence and is given (B,) in place of (B, T).
        by_row: the loss of a sequence depends on that sequence alone. ``trainer.compare_losses`` then takes a whole step
            in one call; any other loss is called with the rows of one micro-batch, as in training.

    Raises:
        ValueError: a name that is taken, an unknown unit, an unknown config key.
    """
    if unit not in UNITS:
        raise ValueError(f"unit {unit!r} of policy loss {name!r} is unknown; use one of {', '.join(UNITS)}.")
    unknown = sorted(set(reads) - _ALL_KEYS)
    if unknown:
        raise ValueError(
            f"policy loss {name!r} says that it reads {', '.join(unknown)}; known keys: {', '.join(sorted(_ALL_KEYS))}."
        )
    keys = frozenset(reads) | ({"loss_avg_mode"} if unit == "loss_avg_mode" else set())

    def decorator(function: LossFunction) -> LossFunction:
        loss = RegisteredLoss(name, function, unit, keys, sequence_advantages, by_row)
        setattr(function, _ATTRIBUTE, loss)
        # A loss in a user's file is addressed by its path, so its name can't collide with one of ours.
        if not function.__module__.startswith(_FILE_MODULE_PREFIX):
            if name in _REGISTRY:
                raise ValueError(f"policy loss {name!r} is registered already; choose another name.")
            _REGISTRY[name] = loss
        return function

    return decorator


def known_loss_types() -> tuple[str, ...]:
    """Registered names, sorted."""
    return tuple(sorted(_REGISTRY))


def get_policy_loss(loss_type: str) -> RegisteredLoss:
    """The loss of that name, or of ``path/to/file.py:name``.

    Raises:
        ValueError: unknown name (the message lists the known ones and the nearest), or see ``load_policy_loss``.
    """
    if loss_type in _REGISTRY:
        return _REGISTRY[loss_type]
    if loss_type.endswith(".py") or ".py:" in loss_type:
        return load_policy_loss(loss_type)
    known = known_loss_types()
    name = loss_type.strip().lower()
    # one letter makes another loss of it (gspo, gmpo): suggest exchanged letters, or what is almost equal to one only
    near = [word for word in known if sorted(word) == sorted(name)]
    near = near or difflib.get_close_matches(name, known, n=2, cutoff=0.8)
    hint = f" Did you mean {near[0]!r}?" if len(near) == 1 else ""
    if name in OTHER_NAMES:
        hint = f" Write {OTHER_NAMES[name]}."
    raise ValueError(
        f"loss_type: {loss_type!r} is unknown.{hint} Known: {', '.join(known)}; "
        "a loss of your own is given as path/to/file.py:name."
    )


def load_policy_loss(spec: str) -> RegisteredLoss:
    """The decorated function ``name`` of the Python file in ``path/to/file.py:name``; the file is run once a process.

    Raises:
        ValueError: no name, missing file, a file that fails, missing name, not callable, not decorated.
    """
    path_text, colon, name = spec.rpartition(":")
    if not colon or not path_text.endswith(".py") or not name:
        raise ValueError(f"loss_type: {spec!r} names no function; write path/to/file.py:name.")
    path = Path(path_text).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"loss_type: {spec!r}: there is no file {path}.")
    module = _FILES.get(path) or _run_file(path, spec)
    if not hasattr(module, name):
        found = sorted(key for key, value in vars(module).items() if hasattr(value, _ATTRIBUTE))
        raise ValueError(
            f"loss_type: {spec!r}: {path.name} has no {name!r}; policy losses in it: {found or 'none'}; "
            "correct the name or the file."
        )
    function = getattr(module, name)
    loss = getattr(function, _ATTRIBUTE, None)
    if loss is None:
        fix = f'put @register_policy_loss("{name}", reads=...) from gmpo_mm.algorithms above it'
        fault = "a function that is not marked as a policy loss" if callable(function) else "not a function"
        raise ValueError(f"loss_type: {spec!r}: {name!r} is {fault}; {fix if callable(function) else 'name one'}.")
    return loss


def _run_file(path: Path, spec: str) -> ModuleType:
    module_name = _FILE_MODULE_PREFIX + sha256(str(path).encode()).hexdigest()[:16]
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"loss_type: {spec!r}: {path} is no Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # dataclasses in the file look their module up
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise ValueError(f"loss_type: {spec!r}: running {path} raised {type(error).__name__}: {error}") from error
    _FILES[path] = module
    return module


def clip_keys_read_by(loss_type: str) -> set[str]:
    """The config keys, relative to ``worker.actor`` (``clip_ratio_low``, ``gmpo.log_clip_low``), that the loss reads.

    A loss key that a config file sets and that is not among them has no effect, which should be an error.

    Raises:
        ValueError: unknown loss.
    """
    return set(get_policy_loss(loss_type).reads)
