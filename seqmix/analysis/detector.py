"""The AnomalyDetector: anomaly scores for every row, and a threshold from the training rows."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqmix.analysis.estimator import SeriesEstimator
from seqmix.analysis.series import Collection, Columns
from seqmix.errors import ConfigError, DataError
from seqmix.forecasting import options

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from seqmix.analysis.scoring import Plan


class AnomalyDetector(SeriesEstimator):
    """Detector of anomalous rows in time series, fitted without labels to rows that are mostly normal.

    ``AnomalyDetector().fit(X).score_samples(X_new)`` with a table ``(T, C)``, an array ``(n, T, C)``, a list of arrays
    ``(T_i, C)``, or a long frame with one or several columns of values; there is one score for each row. As in pyod and
    aeon a higher score is more anomalous, and ``predict`` gives 1 for an anomaly and 0 for a normal row; the outlier
    detectors of scikit-learn have it the other way round (lower is more anomalous, -1 and 1).

    An unusual window raises the scores of every row in it. Rows above the threshold are anomalous by themselves; the
    scores of all others are below it, ordered by the windows around them.

    Missing values are filled before scoring and count in no score: a row without any value has the median score of the
    training rows. So have the first rows of a series, before which the model sees too little; give it earlier rows to
    score those. A series that is too short for any score is refused.

    A model without a closed form is trained on the windows of all series: to reconstruct them, or, if it is linear and
    could copy them, to forecast their last rows. What is fitted in closed form, and the units of errors, are those of
    each series; series of a frame are identified by their ids, others by their positions.

    Args:
        model: name of a detector (``DetectorMean``, ``SubPCA``), forecasting model, encoder or mixer, a class, or a
            ``functools.partial``. The default is the mean of a forecast error and of two distances of windows.
        quantile: the threshold is this quantile of the scores of the training rows.
        contamination: expected share of anomalies among the training rows. Default: ``1 - quantile``.
        season: length of the season in time steps. Default: inferred from the training rows.
        channels_first: arrays are ``(n, C, T)`` or ``(C, T)``, and lists hold arrays ``(C, T_i)``.
        channels: columns of values of a frame. Default: all columns of numbers.
        freq: step between the rows of a frame. Default: inferred.
        fill_gaps: insert missing time steps of a frame, which have no score.
        max_steps: maximum number of optimizer steps of a trained model.
        batch_size: windows per step.
        lr: peak learning rate of AdamW.
        patience: validations without improvement after which training stops. None: train to ``max_steps``.
        val_size: share of the rows at the end of each series that is held out to choose the best weights.
        seed: seed of weights, order and dropout; global random generators keep their state.
        device: device of the training: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        verbose: show progress.
        model_kwargs: options of the model.

    Attributes:
        threshold_: rows with a higher score are anomalies.
        training_scores_: scores of the training rows that the threshold is from, in the form of ``score_samples``. In
            closed form those of each half of the rows are by a fit to the other; after ``fit_predict`` they are those
            by the fitted detector.
        n_features_in_: channels.
        notes_: messages about the fit.
    """

    version = 2
    flat = "table"

    threshold_: float

    def __init__(
        self,
        model: str | Callable[..., Any] = "DetectorMean",
        *,
        quantile: float = 0.99,
        contamination: float | None = None,
        season: int | None = None,
        channels_first: bool = False,
        channels: Sequence[str] | None = None,
        freq: str | int | None = None,
        fill_gaps: bool = False,
        max_steps: int = 300,
        batch_size: int = 32,
        lr: float = 2e-3,
        patience: int | None = 5,
        val_size: float = 0.2,
        seed: int = 0,
        device: str = "auto",
        verbose: bool = False,
        model_kwargs: dict[str, Any] | None = None,
    ):
        self.model, self.quantile, self.contamination, self.season = model, quantile, contamination, season
        self.channels_first, self.channels, self.freq, self.fill_gaps = channels_first, channels, freq, fill_gaps
        self.max_steps, self.batch_size, self.lr, self.patience = max_steps, batch_size, lr, patience
        self.val_size, self.seed, self.device, self.verbose = val_size, seed, device, verbose
        self.model_kwargs = model_kwargs
        self._check_shared()
        options.check_share("quantile", quantile, "0.99")
        options.whole("season", season, 1, True)
        if contamination is not None:
            options.check_share("contamination", contamination, "0.01")
            if quantile != 0.99:
                raise ConfigError(f"contamination = {contamination} and quantile = {quantile} are one option; give one")

    def fit(
        self, X: Any, y: Any = None, *, id_col: str = "unique_id", time_col: str | None = "ds"
    ) -> "AnomalyDetector":
        """Fit the model and the threshold, and return the AnomalyDetector. An earlier fit is discarded.

        Args:
            X: mostly normal series: ``(T, C)``, ``(n, T, C)``, a list of ``(T_i, C)``, or a frame.
            y: ignored; pipelines pass it.
            id_col: column that names the series; a frame without it is one series.
            time_col: column of dates or integers. None: rows are in order.
        """
        series, scores = self._fit(X, id_col, time_col, inner=False)
        self.training_scores_ = series.per_step(scores, "score")
        return self

    def score_samples(self, X: Any) -> Any:
        """Score of each row, higher = more anomalous; a Series with the index of X for a pandas frame."""
        series = self._read_again(X)
        return series.per_step(self._scores(series), "score")

    def decision_function(self, X: Any) -> Any:
        """Score of each row minus the threshold: above 0 for anomalies."""
        series = self._read_again(X)
        return series.per_step([x - self.threshold_ for x in self._scores(series)], "score")

    def predict(self, X: Any) -> Any:
        """1 for an anomalous row, 0 for a normal one."""
        series = self._read_again(X)
        return series.per_step([self._flags(x) for x in self._scores(series)], "anomaly")

    def fit_predict(self, X: Any, y: Any = None, *, id_col: str = "unique_id", time_col: str | None = "ds") -> Any:
        """Fit, and label the training rows themselves: 1 for an anomalous row, 0 for a normal one.

        The threshold is then the quantile of the scores of these rows by the detector that knows them, so that the
        expected share of them is above it; that of ``fit`` is for rows that the detector has not seen. For the same
        reason the unit of the errors of a channel is their 99 % quantile, not the largest, which may be an anomaly.

        The arguments are those of ``fit``.
        """
        series, _ = self._fit(X, id_col, time_col, inner=True)
        scores = self._scores(series)
        self.training_scores_ = series.per_step(scores, "score")
        return series.per_step([self._flags(x) for x in scores], "anomaly")

    def score(self, X: Any, y: Any) -> float:
        """Average precision (AUC-PR) of the scores of all rows: 1 if every anomaly scores above every normal row.

        Args:
            X: series.
            y: 1 for an anomalous row, 0 for a normal one, in the form of ``score_samples``.
        """
        from seqmix.tasks.detection_metrics import average_precision

        scores = self.score_samples(X)
        labels, found = (_flat(values) for values in (y, scores))
        if labels.shape != found.shape:
            raise DataError(f"y has {len(labels)} labels, X has {len(found)} rows; give one label for each row")
        return average_precision(labels, found)

    def plot(self, X: Any, *, labels: Any = None, id: Any = None, max_channels: int = 3) -> "Figure":
        """Values, scores and threshold of one series.

        Args:
            X: series.
            labels: true anomalies of its rows, 1 or 0. Default: not known.
            id: the series. Default: the one with the highest score.
            max_channels: maximum number of channels to draw.
        """
        from seqmix.analysis.plot import places, plot_scores

        series = self._read_again(X)
        scores = self._scores(series)
        i = int(np.argmax([x.max() for x in scores])) if id is None else places(series, [id])[0]
        if labels is not None and len(labels) != len(scores[i]):
            raise DataError(
                f"labels has {len(labels)} values, {series.names[i]} has {len(scores[i])} rows; give one each"
            )
        return plot_scores(series, scores, self.threshold_, labels=labels, i=i, max_channels=max_channels)

    def _fit(self, X: Any, id_col: str, time_col: str | None, *, inner: bool) -> tuple[Collection, list[np.ndarray]]:
        """Fit model and threshold; the series, and the scores ``(T_i,)`` that the threshold is from."""
        from seqmix.analysis.scoring import fit_detector

        series = self._read(X, Columns(id_col, time_col, None, self._channel_names(), self.freq, self.fill_gaps))
        self.fitted_, scores, self.notes_ = fit_detector(self._plan(), series, inner=inner)
        self.threshold_ = self._threshold(scores)
        return series, scores

    def _scores(self, series: Collection) -> list[np.ndarray]:
        """Score of each row, ``(T_i,)`` per series."""
        from seqmix.models.detector import ranked

        return [ranked(x, self.threshold_).numpy() for x in self.fitted_.both_scores(series)]

    def _threshold(self, scores: Sequence[np.ndarray]) -> float:
        """The quantile of the scores of all series."""
        share = self.quantile if self.contamination is None else 1 - self.contamination
        return float(np.quantile(np.concatenate(scores), share))

    def _flags(self, scores: np.ndarray) -> np.ndarray:
        return (scores > self.threshold_).astype(np.int64)

    def _plan(self) -> "Plan":
        from seqmix.analysis.scoring import Plan

        training = self._training()
        return Plan(self.model, self.model_kwargs or {}, self.season, self.val_size, self.seed, training)

    def _pack(self) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
        facts, tensors = self.fitted_.pack()
        return {**facts, "threshold": self.threshold_}, tensors

    def _unpack(self, facts: dict[str, Any], tensors: dict[str, "Tensor"]) -> None:
        from seqmix.analysis.scoring import unpack_detector

        self.fitted_ = unpack_detector(self._plan(), len(self.channels_), facts, tensors)
        self.threshold_ = facts["threshold"]


def _flat(values: Any) -> np.ndarray:
    """One value for each row, all series one after another."""
    return np.concatenate([np.ravel(x) for x in values]) if isinstance(values, list) else np.ravel(values)
