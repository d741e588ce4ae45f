"""Distributed forecasts of a Ray Dataset: workers with a copy of the Forecaster forecast whole series."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import pandas as pd
from pandas.util import hash_array

from seqmix.errors import ConfigError, DataError, NotFittedError
from seqmix.forecasting import options
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.kind import is_dataset

# torch loads with the first call that needs it, not with the name
if TYPE_CHECKING:
    from seqmix.tasks.predictor import WindowPredictor

P = ParamSpec("P")

#: rows of a part on average, by which the memory of a worker is bounded; a longer series is a part of its own
ROWS = 500_000
# column of the number of the part that a row belongs to
_PART = "__part__"


def over_datasets(verb: Callable[P, Any]) -> Callable[P, Any]:
    """Decorator: a method of the Forecaster also takes a Ray Dataset, and then returns one.

    The result is computed when it is read. Its rows are those of one process, in another order.
    """

    @wraps(verb)
    def run(*args: P.args, **given: P.kwargs) -> Any:
        forecaster, df = args[0], args[1] if len(args) > 1 else given.get("df")
        if not is_dataset(df):
            return verb(*args, **given)
        return _spread(forecaster, verb.__name__, df, {name: each for name, each in given.items() if name != "df"})

    return run


class Worker:
    """A Ray worker: it loads the Forecaster once and applies a method to parts of the data.

    Args:
        take: returns the Forecaster.
        verb: name of the method.
        given: arguments of the method, without the frame.
    """

    def __init__(self, take: Callable[[], Any], verb: str, given: Mapping[str, Any]):
        from seqmix.forecasting.machine import where

        forecaster = take()
        for predictor in _predictors(forecaster):
            predictor.to(where(_kind(forecaster.device)))
        self.run: Callable[..., pd.DataFrame] = getattr(forecaster, verb)
        self.given = given

    def __call__(self, part: pd.DataFrame) -> pd.DataFrame:
        """The result for one part."""
        return self.run(part.drop(columns=_PART), **self.given)


def numbered(rows: pd.DataFrame, id_col: str, n_parts: int) -> pd.DataFrame:
    """Rows with the number of their part, which follows from the id of the series."""
    # pandas exports it lazily, by a function without a type
    hashes = hash_array(rows[id_col].to_numpy(object), categorize=False)  # pyright: ignore[reportCallIssue]
    return rows.assign(**{_PART: (hashes % n_parts).astype(np.int64)})


def _spread(forecaster: Any, verb: str, dataset: Any, given: Mapping[str, Any]) -> Any:
    """The dataset of the results of ``verb`` for the parts of ``dataset``."""
    import ray  # pyright: ignore[reportMissingImports]
    from ray.data import ActorPoolStrategy  # pyright: ignore[reportMissingImports]

    how, learned = _checked(forecaster, verb, given)
    columns = dataset.columns()
    absent = [name for name in (how.id_col, how.time_col, how.target_col) if name not in columns]
    if absent:
        raise DataError(f"column {absent[0]!r} not found; the Ray Dataset has {columns}. Rename it, or name another")
    if not learned:
        forecaster = forecaster.clone().set_params(device=_kind(forecaster.device))
        if forecaster.nonnegative == "auto":
            # decided on all series: those of one part may all be positive
            forecaster.set_params(nonnegative=not _any_below_zero(dataset, str(how.target_col)))
    n_parts = max(1, -(-dataset.count() // ROWS))
    number = partial(numbered, id_col=how.id_col, n_parts=n_parts)
    parts = dataset.map_batches(number, batch_format="pandas").groupby(_PART, num_partitions=n_parts)
    workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return parts.map_groups(
        Worker,
        fn_constructor_args=(partial(ray.get, _put(forecaster)), verb, dict(given)),
        batch_format="pandas",
        compute=ActorPoolStrategy(min_size=1, max_size=workers),
        num_gpus=1 if _kind(forecaster.device) == "cuda" else None,
    )


def _checked(forecaster: Any, verb: str, given: Mapping[str, Any]) -> tuple[Reading, bool]:
    """Reading options of the dataset, and whether fitted models forecast it.

    Raises:
        ConfigError: if parts of the data would be forecast otherwise than the whole.
        NotFittedError: if a model has to be fitted first.
    """
    from seqmix.forecasting.factory import choices

    chosen = options.resolved(forecaster.get_params())
    names = [given.get(name) for name in ("id_col", "time_col", "target_col")]
    fitted = getattr(forecaster, "fitted_", None) if verb == "predict" else None
    if chosen["mode"] == "multivariate" or (fitted is not None and any(m.plan.joint for m in fitted.members)):
        raise ConfigError("the models forecast all series together, and Ray parts of them; fit with mode='global'")
    if fitted is not None:
        return fitted.reading.checked(*names), True
    models = [] if chosen["model"] == options.AUTO else choices(chosen["model"], chosen["model_kwargs"])
    if not models or not all(model.cls.pretrained for model in models):
        if verb == "predict":
            raise NotFittedError("this Forecaster is not fitted; call fit() or load()")
        raise ConfigError(
            f"{verb} fits the models to all series, which are in parts here; write the dataset to a folder with "
            "write_parquet and give the folder, or use pretrained models with max_steps=0"
        )
    if verb != "predict" and chosen["max_steps"] != 0:
        raise ConfigError(f"{verb} trains on all series, which are in parts here; use max_steps=0")
    if chosen["freq"] is None:
        raise ConfigError("freq is needed: parts of the dataset may show different ones; pass for example freq='D'")
    return options.reading(chosen, *names), False


def _kind(device: str) -> str:
    """The device in a worker, which sees the GPU that it was given and no other."""
    return device.partition(":")[0]


def _put(forecaster: Any) -> Any:
    """A copy of the Forecaster in the object store, with its models on the CPU: workers may have no other device."""
    import ray  # pyright: ignore[reportMissingImports]

    predictors = _predictors(forecaster)
    places = [predictor.device for predictor in predictors]
    for predictor in predictors:
        predictor.to("cpu")
    try:
        return ray.put(forecaster)
    finally:
        for predictor, place in zip(predictors, places, strict=True):
            predictor.to(place)


def _predictors(forecaster: Any) -> "list[WindowPredictor]":
    """The fitted models; none before a fit."""
    return [member.predictor for member in forecaster.fitted_.members] if hasattr(forecaster, "fitted_") else []


def _any_below_zero(dataset: Any, column: str) -> bool:
    def below(rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"below": [bool((rows[column] < 0).any())]})

    found = dataset.select_columns([column]).map_batches(below, batch_format="pandas")
    return any(row["below"] for row in found.iter_rows())
