"""Load a reward function from a file, as EasyR1 does, and hold it to its contract."""

import difflib
import hashlib
import importlib.util
import inspect
import json
import math
import sys
import traceback
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsFloat

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from gmpo_mm.errors import ConfigError, RewardError
from gmpo_mm.machine_errors import is_out_of_memory

KEY = "worker.reward.reward_function"
REWARD_TYPES = ("batch", "sequential")
_SHOWN = 200  # characters of a response in an error


@dataclass(frozen=True)
class RewardFunction:
    """A loaded reward function; call it with EasyR1's inputs, get one dict of floats a row."""

    function: Callable[..., Any]
    kwargs: Mapping[str, Any]
    reward_type: str
    name: str
    path: str
    gold_fault: Callable[[str], str | None] | None = None
    """The file's own `gold_fault`: what is wrong with a gold text, None for a good one; most must be good."""
    check_gold: Callable[[Any], object] | None = None
    """The file's own `check_gold`: raises ValueError for a gold that it can't grade by; all must pass."""

    def __call__(self, inputs: list[dict[str, Any]]) -> list[dict[str, float]]:
        """Scores, one a row, each with a finite `overall`; RewardError names the row that raised or broke this.

        Another part that is not finite counts as missing: it is left out, and every row of the batch says with
        `<part>_not_finite`, 0 or 1, whether its own was.
        """
        if not inputs:
            return []
        if self.reward_type == "sequential":
            outputs = [self._call_row(index, row) for index, row in enumerate(inputs)]
        else:
            outputs = self._call_batch(inputs)
        return _without_not_finite(
            [self._checked(index, row, score) for index, (row, score) in enumerate(zip(inputs, outputs, strict=True))]
        )

    def _call_row(self, index: int, row: dict[str, Any]) -> Any:
        try:
            return self.function(row, **self.kwargs)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            raise self._error(f"raised {_brief(error)}", index, row, traceback.format_exc()) from error

    def _call_batch(self, inputs: list[dict[str, Any]]) -> list[Any]:
        try:
            outputs = self.function(inputs, **self.kwargs)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            index = self._first_failing_row(inputs)
            row = None if index is None else inputs[index]
            raise self._error(f"raised {_brief(error)}", index, row, traceback.format_exc()) from error
        if not isinstance(outputs, (list, tuple)):
            raise RewardError(
                f"{self._where()} returned {type(outputs).__name__}; return a list with one dict a row"
            )
        if len(outputs) != len(inputs):
            raise RewardError(
                f"{self._where()} returned {len(outputs)} scores for {len(inputs)} rows; return one a row"
            )
        return list(outputs)

    def _first_failing_row(self, inputs: list[dict[str, Any]]) -> int | None:
        """A batch function does not say which row it failed on: the first that fails alone."""
        for index, row in enumerate(inputs):
            try:
                self.function([row], **self.kwargs)
            except (Exception, SystemExit):
                return index
        return None

    def _checked(self, index: int, row: dict[str, Any], score: Any) -> dict[str, float]:
        if not isinstance(score, Mapping):
            raise self._error(f"returned {type(score).__name__} instead of a dict", index, row)
        if "overall" not in score:
            raise self._error(f"returned no 'overall' (keys: {', '.join(map(str, score))})", index, row)
        checked = {str(key): _as_float(value) for key, value in score.items()}
        for key, value in checked.items():
            if value is None:
                raise self._error(f"returned {key}={score[key]!r}, which is not a number", index, row)
        if not math.isfinite(checked["overall"] or 0.0):
            raise self._error(f"returned overall={score['overall']!r}, which is not finite", index, row)
        return {key: value for key, value in checked.items() if value is not None}

    def _where(self) -> str:
        return (
            f"reward function {self.path}:{getattr(self.function, '__name__', type(self.function).__name__)}"
        )

    def _error(
        self, what: str, index: int | None, row: Mapping[str, Any] | None, trace: str = ""
    ) -> RewardError:
        if index is None or row is None:
            place = "  on the whole batch; no row fails alone"
        else:
            response = str(row.get("response", ""))
            start = repr(response[:_SHOWN]) + ("..." if len(response) > _SHOWN else "")
            place = (
                f"  row {index}, ground truth {str(row.get('ground_truth'))[:_SHOWN]!r}\n"
                f"  response ({len(response)} characters): {start}"
            )
        return RewardError(f"{self._where()} {what}\n{place}" + (f"\n{trace.rstrip()}" if trace else ""))


def load_reward_function(path_and_name: str, kwargs: Mapping[str, Any] | None = None) -> RewardFunction:
    """Load `path/to/file.py:function` (`main` when no name is given) and bind its keyword arguments.

    The file's REWARD_TYPE is batch (the default) or sequential, REWARD_NAME a label. A `prepare(**kwargs)` in the file
    is called once, to check arguments and start what the function needs; with a `gold_fault(text)` or `check_gold(gold)` in
    it the data's golds are checked before a run (see `RewardFunction`). ConfigError for a path, name, type or keyword that
    is not there.
    """
    path_text, separator, function_name = path_and_name.rpartition(":")
    if not separator or function_name.endswith(".py"):
        path_text, function_name = path_and_name, "main"
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise ConfigError(f"{KEY}: no file {path_text!r}; give path/to/file.py:function_name")
    module = _load_module(path.resolve())
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(
            f"{KEY}: {path_text} has no function {function_name!r}{_nearest(function_name, _functions(module))}; "
            "give path/to/file.py:function_name"
        )
    reward_type = getattr(module, "REWARD_TYPE", "batch")
    if reward_type not in REWARD_TYPES:
        raise ConfigError(
            f"{KEY}: {path_text} says REWARD_TYPE = {reward_type!r}; use {' or '.join(REWARD_TYPES)}"
        )
    bound = dict(kwargs or {})
    wrong_type = _check_kwargs(function, bound, path_text)
    prepare = getattr(module, "prepare", None)
    if callable(prepare):
        try:
            prepare(**bound)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            if wrong_type is not None:
                raise wrong_type from error
            raise ConfigError(
                f"{KEY}: prepare() of {path_text} raised {_brief(error)}; correct {KEY}_kwargs, or the file\n"
                f"{traceback.format_exc()}"
            ) from error
    if wrong_type is not None:  # after the file's own check, which knows more
        raise wrong_type
    name = str(getattr(module, "REWARD_NAME", "unknown"))
    gold_fault, check_gold = (getattr(module, hook, None) for hook in ("gold_fault", "check_gold"))
    return RewardFunction(function, bound, reward_type, name, path_text, gold_fault, check_gold)


def _without_not_finite(scores: list[dict[str, float]]) -> list[dict[str, float]]:
    """One NaN would make the mean of its part NaN, which hides the numbers of all other rows."""
    broken = dict.fromkeys(key for score in scores for key, value in score.items() if not math.isfinite(value))
    if not broken:
        return scores
    return [
        {key: value for key, value in score.items() if math.isfinite(value)}
        | {f"{key}_not_finite": float(not math.isfinite(score.get(key, 0.0))) for key in broken}
        for score in scores
    ]


def _load_module(path: Path) -> ModuleType:
    # Its own name for each file: two loaded files would otherwise overwrite each other in sys.modules.
    name = f"gmpo_mm_reward_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{KEY}: {path} is not a Python file; give path/to/file.py:function_name")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(
            f"{KEY}: {path} can't be loaded: {_brief(error)}; correct the file\n{traceback.format_exc()}"
        ) from error
    return module


def _check_kwargs(function: Callable[..., Any], kwargs: Mapping[str, Any], path: str) -> ConfigError | None:
    """ConfigError for an argument that the function does not know or lacks; returned for one of another type than it says."""
    wrong_type = None
    parameters = list(inspect.signature(function).parameters.values())
    keyword_kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {parameter.name: parameter for parameter in parameters[1:] if parameter.kind in keyword_kinds}
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    listed = f"known: {', '.join(named)}" if named else "the function takes none"
    for key, value in kwargs.items():
        where = f"{KEY}_kwargs.{key}={value!r}: {path}"
        if key not in named:
            if takes_any:
                continue
            raise ConfigError(f"{where} does not know {key!r}{_nearest(key, list(named))}; {listed}")
        if wanted := _wrong_type(function, named[key], value):
            wrong_type = wrong_type or ConfigError(f"{where} takes {wanted} there; correct the value")
    lacking = [name for name, parameter in named.items() if parameter.default is inspect.Parameter.empty and name not in kwargs]
    if lacking:
        raise ConfigError(
            f"{KEY}_kwargs: {path} needs {', '.join(map(repr, lacking))} as well; give {KEY}_kwargs.{lacking[0]}=..."
        )
    return wrong_type


def _wrong_type(function: Callable[..., Any], parameter: inspect.Parameter, value: Any) -> str | None:
    """What a parameter takes, where `value` is no such thing; None where it is, or where the signature does not say."""
    try:
        hint = typing.get_type_hints(function).get(parameter.name, Any)
    except Exception:  # names that are only there for type checkers
        hint = Any
    if hint is not Any:
        try:
            adapter = TypeAdapter(hint)
            text = json.dumps(value)  # as JSON: a list is also right for a tuple
        except (PydanticUserError, TypeError, ValueError):
            return None
        try:
            adapter.validate_json(text, strict=True)
        except ValidationError:
            return getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", "")
        return None
    default = parameter.default
    if isinstance(default, (int, float)) and isinstance(value, (str, list, dict)):
        return f"a number or a bool such as {default!r}"
    return None


def _functions(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if inspect.isfunction(value)]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _as_float(value: Any) -> float | None:
    if isinstance(value, (int, float)):  # the usual case first: checking a protocol is slow
        return float(value)
    if isinstance(value, (str, bytes)) or not isinstance(value, SupportsFloat):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
