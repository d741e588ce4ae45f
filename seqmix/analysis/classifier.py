"""The Classifier: classification of time series with any model or mixer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from seqmix.analysis.estimator import SeriesEstimator
from seqmix.analysis.series import Collection, Columns
from seqmix.errors import DataError, check_choice
from seqmix.forecasting.options import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from seqmix.analysis.labeling import Plan


class Classifier(ClassifierMixin, SeriesEstimator):
    """Classifier of time series of one or several channels, of equal or unequal lengths.

    ``Classifier().fit(X, y).predict(X_new)`` with an array ``(n, T, C)`` or ``(n, T)``, a list of arrays ``(T_i, C)``,
    a ``.ts`` file, or a long frame with a column of labels, one for each id. Missing values are interpolated within
    their series and channel. Probabilities are those of a softmax, which are not calibrated: wrap it in
    ``sklearn.calibration.CalibratedClassifierCV`` where they matter.

    Args:
        model: name of a classifier, encoder, forecasting model or mixer, a class, or a ``functools.partial``. The
            default is fitted in closed form, on all series and in seconds; options of training are for other models.
        normalize: ``train`` standardizes each channel by the training series, ``series`` each channel of each series
            by itself, ``none`` leaves values as they are.
        max_len: longest series that can be classified. Default: that of the fit, plus a quarter where lengths
            differ.
        channels_first: arrays are ``(n, C, T)``, and lists hold arrays ``(C, T_i)``.
        channels: columns of values of a frame. Default: all columns of numbers.
        freq: step between the rows of a frame. Default: inferred.
        fill_gaps: insert missing time steps of a frame as missing values.
        max_steps: maximum number of optimizer steps.
        batch_size: series per step.
        lr: peak learning rate of AdamW.
        patience: validations without improvement after which training stops. None: train to ``max_steps``.
        val_size: share of the series of each class that is held out to choose the best weights; a class of one series
            has none. 0 trains on all series to ``max_steps``.
        seed: seed of weights, order, dropout and held-out series; global random generators keep their state.
        device: device of the training: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        verbose: show progress.
        model_kwargs: options of the model.

    Attributes:
        classes_: the labels, sorted.
        n_features_in_: columns of an array ``(n, T)``, else channels.
        n_channels_: channels.
        lengths_: shortest and longest series of the fit.
        max_len_: longest series that can be classified; others are refused, shorter ones too if ``max_len`` is not set
            and all series of the fit had the same length.
        history_: a row for each validation.
        notes_: messages about the fit.
    """

    flat = "series"

    normalize: Literal["train", "series", "none"]
    classes_: np.ndarray

    def __init__(
        self,
        model: str | Callable[..., Any] = "RandomConvolutions",
        *,
        normalize: Literal["train", "series", "none"] = "train",
        max_len: int | None = None,
        channels_first: bool = False,
        channels: Sequence[str] | None = None,
        freq: str | int | None = None,
        fill_gaps: bool = False,
        max_steps: int = 300,
        batch_size: int = 32,
        lr: float = 2e-3,
        patience: int | None = 10,
        val_size: float = 0.2,
        seed: int = 0,
        device: str = "auto",
        verbose: bool = False,
        model_kwargs: dict[str, Any] | None = None,
    ):
        self.model, self.normalize, self.max_len = model, normalize, max_len
        self.channels_first, self.channels, self.freq, self.fill_gaps = channels_first, channels, freq, fill_gaps
        self.max_steps, self.batch_size, self.lr, self.patience = max_steps, batch_size, lr, patience
        self.val_size, self.seed, self.device, self.verbose = val_size, seed, device, verbose
        self.model_kwargs = model_kwargs
        self._check_shared()
        whole("max_len", max_len, 1, True)
        check_choice("normalize", normalize, ("train", "series", "none"))

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        id_col: str = "unique_id",
        time_col: str | None = "ds",
        label_col: str = "label",
    ) -> "Classifier":
        """Fit the model and return the Classifier. An earlier fit is discarded.

        Args:
            X: series: ``(n, T, C)``, ``(n, T)``, a list of ``(T_i, C)``, a ``.ts`` file, or a long frame.
            y: label of each series: text, numbers or booleans. Default: those of the file or frame.
            id_col: column that names the series.
            time_col: column of dates or integers. None: rows are in order.
            label_col: column of the labels.
        """
        from seqmix.analysis.labeling import fit_classifier

        columns = Columns(id_col, time_col, label_col, self._channel_names(), self.freq, self.fill_gaps)
        X, y = _from_file(X, y)
        series = self._read(X, columns)
        self.classes_, codes = _classes(_labels_of(series, y, columns))
        self.n_channels_ = len(series.channels)
        shortest, longest = int(series.lengths.min()), int(series.lengths.max())
        if self.max_len is not None and self.max_len < longest:
            raise DataError(
                f"X has a series of {longest} time steps, and max_len = {self.max_len}; raise it, or cut them"
            )
        self.max_len_ = self.max_len or (longest if shortest == longest else longest + longest // 4)
        self.lengths_ = shortest, longest
        self.fitted_, self.history_, self.notes_ = fit_classifier(self._plan(), series, codes)
        self.task_ = self.fitted_.task
        return self

    def predict(self, X: Any) -> Any:
        """The most probable class of each series; for a frame a Series with the ids as its index."""
        series = self._series(X)
        codes = self.fitted_.scores(series).argmax(1)
        return series.per_series(self.classes_[codes], self.columns_.label_col or "label")

    def predict_proba(self, X: Any) -> Any:
        """Probability of each class, ``(n, n_classes)`` in the order of ``classes_``; not calibrated."""
        series = self._series(X)
        scores = self.fitted_.scores(series)
        exponentials = np.exp(scores - scores.max(1, keepdims=True))
        return series.per_series(exponentials / exponentials.sum(1, keepdims=True), self.classes_)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Accuracy; a series of a class that was not in the fit counts as wrong.

        Args:
            X: series.
            y: true labels. Default: those of the file or frame.
            sample_weight: weight of each series. Default: all count the same.
        """
        X, y = _from_file(X, y)
        series = self._series(X)
        labels, weights = _labels_of(series, y, self.columns_), _weights_of(series, sample_weight)
        return float(np.average(np.asarray(self.predict(X)) == labels, weights=weights))

    def plot(self, X: Any, y: Any = None) -> "Figure":
        """The median series of each class, and true against predicted classes where they are known.

        Args:
            X: series.
            y: true labels. Default: those of the file or frame, if it has any.
        """
        from seqmix.analysis.plot import plot_classes

        X, y = _from_file(X, y)
        series = self._series(X)
        known = y is not None or series.labels is not None
        truth = _labels_of(series, y, self.columns_) if known else None
        return plot_classes(series, np.asarray(self.predict(X)), self.classes_, truth)

    def _series(self, X: Any) -> Collection:
        """Series of lengths that the model takes."""
        found = self._read_again(_from_file(X, None)[0])
        most = self.max_len_
        fixed = self.lengths_[0] == most
        wrong = found.lengths != most if fixed else found.lengths > most
        if wrong.any():
            i = int(wrong.argmax())
            steps = found.lengths[i]
            if found.form == self.flat:
                raise DataError(
                    f"X has {steps} features, but Classifier is expecting {self.n_features_in_} features as input: it "
                    f"was fitted on series of {self.n_features_in_} time steps; cut or resample them"
                )
            raise DataError(
                f"{found.names[i]} has {steps} time steps, and Classifier takes {'' if fixed else 'at most '}{most}; "
                "cut or resample it, or fit with max_len=..."
            )
        return found

    def _plan(self) -> "Plan":
        from seqmix.analysis.labeling import Plan

        return Plan(
            self.model,
            self.model_kwargs or {},
            self.n_channels_,
            len(self.classes_),
            self.max_len_,
            self.normalize,
            self.val_size,
            self.seed,
            self._training(),
        )

    def _pack(self) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
        facts, tensors = self.fitted_.pack()
        classes = {"classes": self.classes_.tolist(), "dtype": str(self.classes_.dtype), "max_len": self.max_len_}
        classes["lengths"] = self.lengths_
        return {**facts, **classes}, tensors

    def _unpack(self, facts: dict[str, Any], tensors: dict[str, "Tensor"]) -> None:
        from seqmix.analysis.labeling import unpack_classifier

        self.classes_ = np.array(facts["classes"], dtype=facts["dtype"])
        self.n_channels_, self.max_len_ = len(self.channels_), facts["max_len"]
        self.lengths_ = tuple(facts["lengths"])
        self.fitted_ = unpack_classifier(self._plan(), tensors)
        self.task_ = self.fitted_.task


def _from_file(X: Any, y: Any) -> tuple[Any, Any]:
    """Series and labels of a ``.ts`` file; anything else as it is."""
    if not isinstance(X, str | Path):
        return X, y
    from seqmix.data.files import read_file
    from seqmix.data.series.ts_file import read_ts

    path = Path(X)
    if not path.name.endswith((".ts", ".ts.gz")):
        raise DataError(f"{str(path)!r} is not a .ts file; read it with pandas, and give the frame")
    found = read_ts(read_file(path), path.name, labeled=False)
    return found.series, (found.labels or None) if y is None else y


def _labels_of(series: Collection, y: Any, columns: Columns) -> np.ndarray:
    """One label for each series, in their order.

    Raises:
        DataError: if there are none, or not as many.
    """
    if y is None and series.labels is not None:
        return series.labels
    if y is None:
        what = f"column {columns.label_col!r}" if series.form == "frame" else "y"
        raise DataError(
            "Classifier requires y to be passed, but the target y is None: it needs a label for each series; give "
            + what
        )
    y = _by_id(series, y, "y")
    # scikit-learn makes floats of nullable integers
    labels = column_or_1d(y.to_numpy() if hasattr(y, "to_numpy") else y, warn=True)
    if len(labels) != len(series.values):
        raise DataError(f"y has {len(labels)} labels, X has {len(series.values)} series; give one label for each")
    if labels.dtype == object and pd.api.types.infer_dtype(labels, skipna=False) in ("integer", "boolean"):
        labels = np.array(labels.tolist())
    if labels.dtype.kind == "f" and np.isinf(labels).any():
        raise DataError("Input y contains infinity; give a class for each series")
    if pd.isna(labels).any():
        raise DataError(
            f"Input y contains NaN: label {int(pd.isna(labels).argmax())} is missing; give one for each series"
        )
    return labels


def _weights_of(series: Collection, sample_weight: Any) -> np.ndarray | None:
    """A weight for each series, in their order.

    Raises:
        DataError: if there are not as many, or one is negative or not finite, or all are 0.
    """
    if sample_weight is None:
        return None
    weights = np.asarray(_by_id(series, sample_weight, "sample_weight"), dtype=np.float64)
    if weights.shape != series.lengths.shape:
        n = len(series.values)
        raise DataError(f"sample_weight has shape {weights.shape}, X has {n} series; give one for each")
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any() or not weights.any():
        first = weights[wrong.argmax()]
        raise DataError(f"sample_weight should hold weights of 0 and more, not all of them 0, got {first}; change it")
    return weights


def _by_id(series: Collection, values: Any, name: str) -> Any:
    """Values of a pandas Series that names the series of a frame, in their order; others as they are.

    Raises:
        DataError: if some of the series are named, and others not.
    """
    if series.form != "frame" or not isinstance(values, pd.Series):
        return values
    # one value for each row; their numbers may look like ids
    of_rows = isinstance(series.given, pd.DataFrame) and values.index.equals(series.given.index)
    if of_rows and len(values) != len(series.ids):
        return values
    known = series.ids.isin(values.index)
    if known.any() and not known.all() and not values.index.equals(pd.RangeIndex(len(values))):
        raise DataError(f"the index of {name} names some ids of X, and not {series.ids[~known][0]!r}; name all of them")
    return values.loc[series.ids] if known.all() else values


def _classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes, sorted, and the number of that of each label.

    Raises:
        DataError: if there is one class only, or labels are no classes.
    """
    try:
        classes, codes = np.unique(labels, return_inverse=True)
    except TypeError as e:
        kinds = sorted({type(label).__name__ for label in labels})
        raise DataError(f"y holds labels of different types: {', '.join(kinds)}; give labels of one type") from e
    check_classification_targets(labels)
    if len(classes) == 1:
        raise DataError(f"y has one class, {classes.tolist()[0]!r}; a Classifier needs series of at least two")
    return classes, codes
