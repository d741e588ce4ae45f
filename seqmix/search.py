"""Search over options with Optuna: the grammar of search spaces, and reproducible studies."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmix.errors import ConfigError, check_choice

# optuna loads with the first study: it is an extra
if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.trial import Trial

#: how trials that promise little are ended early
PRUNERS = ("median", "hyperband", "none")
_GRAMMAR = "int:LOW:HIGH[:STEP], float:LOW:HIGH[:STEP], log:LOW:HIGH, or values such as 32,64"
_EXAMPLES = {"int": "int:32:128:32", "float": "float:0:0.5", "log": "log:1e-4:1e-2"}


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Args:
        values: the values by what trials call them.
    """

    values: Mapping[str, Any]

    @property
    def size(self) -> float:
        """Number of values."""
        return len(self.values)

    @property
    def ends(self) -> list[Any]:
        """All values."""
        return list(self.values.values())

    def draw(self, trial: "Trial", name: str) -> Any:
        """The value of a trial: the one that it has drawn before, or a new one."""
        return self.values[trial.suggest_categorical(name, list(self.values))]


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``.

    Args:
        kind: ``int``, ``float``, or ``log`` for a logarithmic scale.
        low: least value.
        high: greatest value.
        step: distance of neighboring values. Default: any value, 1 for whole numbers.
    """

    kind: str
    low: float
    high: float
    step: float | None = None

    @property
    def size(self) -> float:
        """Number of values."""
        step = self.step or (1 if self.kind == "int" else 0)
        return math.floor((self.high - self.low) / step * (1 + 1e-12)) + 1 if step else math.inf

    @property
    def ends(self) -> list[Any]:
        """Least and greatest value."""
        return [self.low, self.high]

    def draw(self, trial: "Trial", name: str) -> Any:
        """The value of a trial: the one that it has drawn before, or a new one."""
        if self.kind == "int":
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1))
        return trial.suggest_float(name, self.low, self.high, log=self.kind == "log", step=self.step)


Space = Mapping[str, Choice | Range]


def dimension(name: str, given: Any) -> Choice | Range:
    """The values of one option: ``int:LOW:HIGH[:STEP]``, ``float:LOW:HIGH[:STEP]``, ``log:LOW:HIGH``, or a list.

    Raises:
        ConfigError: if ``given`` is neither, or leaves nothing to choose.
    """
    kind, colon, rest = given.partition(":") if isinstance(given, str) else ("", "", "")
    if isinstance(given, str) and colon and kind in _EXAMPLES:
        return _range(name, given, kind, rest.split(":"))
    if isinstance(given, Mapping | str) or not isinstance(given, Sequence):
        raise ConfigError(f"space: {name} = {given!r} is not a range; use {_GRAMMAR}")
    values = {str(value): value for value in given}
    if len(values) < len(given):
        raise ConfigError(f"space: {name} names a value twice, got {list(given)}; name each once")
    if len(values) < 2:
        raise ConfigError(f"space: {name} has nothing to choose from, got {list(given)}; use {_GRAMMAR}")
    return Choice(values)


def _range(name: str, given: str, kind: str, parts: Sequence[str]) -> Range:
    wrong = f"space: {name} = {given!r}"
    number = int if kind == "int" else float
    try:
        low, high, *step = map(number, parts)
    except ValueError:
        what = "whole numbers" if kind == "int" else "numbers"
        raise ConfigError(f"{wrong} should be {kind} and two {what}; use for example {_EXAMPLES[kind]}") from None
    if len(step) > (kind != "log"):
        raise ConfigError(f"{wrong} has a part too many; use for example {_EXAMPLES[kind]}")
    if not (math.isfinite(low) and low < high < math.inf):
        raise ConfigError(f"{wrong}: {low:g} should be below {high:g}; use for example {_EXAMPLES[kind]}")
    if kind == "log" and low <= 0:
        raise ConfigError(f"{wrong}: a logarithmic scale begins above 0, got {low:g}; use for example log:1e-4:1e-2")
    if step and not 0 < step[0] <= high - low:
        raise ConfigError(f"{wrong}: the step {step[0]:g} does not fit; use one above 0 and at most {high - low:g}")
    if step:
        # the range includes its greatest value
        steps = math.floor((high - low) / step[0] * (1 + 1e-12))
        high = number(f"{low + steps * step[0]:.12g}")
    return Range(kind, low, high, *step)


def make_study(name: str, *, maximize: bool, pruner: str, seed: int, file: Path | None = None) -> "Study":
    """A study of Optuna (tree-structured Parzen estimator), new or as far as ``file`` has it.

    What a trial draws depends on the seed, on its number and on the trials before it: a study that goes on draws what
    one without an interruption does.

    Args:
        name: name of the study in the file.
        maximize: greater values are better.
        pruner: rule that stops unpromising trials early.
        seed: seed of the draws.
        file: journal of the trials. Default: they are kept in memory.

    Raises:
        ConfigError: if Optuna is not installed, or the pruner is not known.
    """
    check_choice("pruner", pruner, PRUNERS)
    try:
        import optuna
    except ImportError as e:
        raise ConfigError("a search over options needs optuna; pip install 'seqmix[scale]'") from e
    from seqmix._optuna import Seeded, journal

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        study_name=name,
        storage=None if file is None else journal(file),
        load_if_exists=True,
        direction="maximize" if maximize else "minimize",
        sampler=Seeded(seed),
        pruner=_pruner(pruner),
    )


def drawn(trial: "Trial", space: Space) -> dict[str, Any]:
    """The values of a trial by option."""
    return {name: values.draw(trial, name) for name, values in space.items()}


def combinations(space: Space) -> float:
    """Number of combinations in a space, infinite where a range has no step."""
    return math.prod(values.size for values in space.values())


def importance(study: "Study", space: Space) -> dict[str, float]:
    """Share of each option in the variance of the results (fANOVA), greatest first; empty where too little is known."""
    import optuna

    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    varied = [name for name in space if len({trial.params[name] for trial in done}) > 1]
    if len({trial.value for trial in done}) < 2 or not varied:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    return {**found, **{name: 0.0 for name in space if name not in found}}


def _pruner(name: str) -> "BasePruner":
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    return {"median": MedianPruner, "hyperband": HyperbandPruner, "none": NopPruner}[name]()
