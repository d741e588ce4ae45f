"""The Imputer: imputation of missing values with any forecasting model or mixer."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sklearn.base import OneToOneFeatureMixin, TransformerMixin

from seqmix.analysis.estimator import SeriesEstimator
from seqmix.analysis.outputs import filled_arrays, filled_frame
from seqmix.analysis.series import Columns
from seqmix.errors import ConfigError
from seqmix.forecasting import options

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from seqmix.analysis.filling import Plan


class Imputer(OneToOneFeatureMixin, TransformerMixin, SeriesEstimator):
    """Imputer of time series: missing values (NaN) are filled by a model, observed values stay as they are.

    ``Imputer().fit_transform(X)`` with a table ``(T, C)`` of any length, from which windows are cut, an array
    ``(n, T, C)``, a list of arrays ``(T_i, C)``, or a long frame with one or several columns of values. The result has
    the form of X. The model is trained to fill cells that are hidden from it, so that rows without gaps serve as well.
    A channel without any value in a whole window is filled near its training mean.

    Args:
        model: name of an imputer (``GaussianImputer``, ``LinearInterpolation``), forecasting model, encoder or mixer, a
            class, or a ``functools.partial``. The default is the conditional mean of a Gaussian, in closed form;
            options of training are for other models.
        context: time steps that the model sees at once. Default: 96, at most a quarter of the longest series, but
            all of it where series are short.
        pattern: pattern of hidden cells in training: each ``point`` on its own, a ``subsequence`` of one channel, a
            ``block`` of all channels at once, or one of the three in each window (``mixed``).
        rate: share of the observed cells that is hidden in training.
        levels: coverage in percent of the intervals that ``transform`` adds to frames. They are calibrated on hidden
            cells of the held-out rows. Default: no intervals.
        channels_first: arrays are ``(n, C, T)`` or ``(C, T)``, and lists hold arrays ``(C, T_i)``.
        channels: columns of values of a frame. Default: all columns of numbers.
        freq: step between the rows of a frame. Default: inferred.
        fill_gaps: insert missing time steps of a frame, and fill them.
        max_steps: maximum number of optimizer steps.
        batch_size: windows per step.
        lr: peak learning rate of AdamW.
        patience: validations without improvement after which training stops. None: train to ``max_steps``.
        val_size: share of the rows at the end of each series, or of the series where they are short, that is held out.
        seed: seed of weights, order, dropout and hidden cells; global random generators keep their state.
        device: device of the training: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        verbose: show progress.
        model_kwargs: options of the model.

    Attributes:
        n_features_in_: channels.
        context_: time steps that the model sees at once.
        history_: a row for each validation.
        notes_: messages about the fit.
    """

    flat = "table"

    pattern: Literal["point", "subsequence", "block", "mixed"]

    def __init__(
        self,
        model: str | Callable[..., Any] = "GaussianImputer",
        *,
        context: int | None = None,
        pattern: Literal["point", "subsequence", "block", "mixed"] = "mixed",
        rate: float = 0.25,
        levels: Sequence[float] | None = None,
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
        self.model, self.context, self.pattern, self.rate, self.levels = model, context, pattern, rate, levels
        self.channels_first, self.channels, self.freq, self.fill_gaps = channels_first, channels, freq, fill_gaps
        self.max_steps, self.batch_size, self.lr, self.patience = max_steps, batch_size, lr, patience
        self.val_size, self.seed, self.device, self.verbose = val_size, seed, device, verbose
        self.model_kwargs = model_kwargs
        self._check_shared()
        options.whole("context", context, 2, True)
        options.check_share("rate", rate, "0.25")
        if options.levels(levels) and not val_size:
            raise ConfigError(f"levels = {levels} are calibrated on held-out rows; use val_size=0.2")

    def fit(self, X: Any, y: Any = None, *, id_col: str = "unique_id", time_col: str | None = "ds") -> "Imputer":
        """Fit the model and return the Imputer. An earlier fit is discarded.

        Args:
            X: series, with or without missing values: ``(T, C)``, ``(n, T, C)``, a list of ``(T_i, C)``, or a frame.
            y: ignored; pipelines pass it.
            id_col: column that names the series; a frame without it is one series.
            time_col: column of dates or integers. None: rows are in order.
        """
        from seqmix.analysis.filling import fit_imputer

        series = self._read(X, Columns(id_col, time_col, None, self._channel_names(), self.freq, self.fill_gaps))
        self.fitted_, self.history_, self.notes_ = fit_imputer(self._plan(), series)
        self.task_, self.context_ = self.fitted_.task, self.fitted_.task.series.context
        return self

    def transform(self, X: Any) -> Any:
        """X with its gaps filled, in a new object of the same form.

        Integer columns of a frame get rounded values. With ``levels`` a frame also gets columns
        ``<channel>-lo-80`` and ``<channel>-hi-80``, which are the value itself where it was observed.
        """
        series = self._read_again(X)
        filled = self.fitted_.fill(series)
        if series.form != "frame":
            return filled_arrays(series, filled, channels_first=self.channels_first)
        return filled_frame(series, filled, self.fitted_.bounds(series, filled), self.columns_)

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Names of the columns of a filled array: those given, or ``x0``, ``x1``, ...

        Raises:
            AttributeError: if the Imputer was fitted on a frame, of which all columns come back.
        """
        self._check_fitted()
        if self.columns_.channels is not None:
            # scikit-learn knows these words, and leaves the columns
            what = "an Imputer of frames does not provide get_feature_names_out"
            raise AttributeError(f"{what}: a filled frame keeps its own columns; use transform(X).columns")
        return super().get_feature_names_out(input_features)

    def intervals(self, X: Any) -> dict[float, tuple[Any, Any]]:
        """Lower and upper bounds of all values by level, arrays in the form of X; an observed value is its own bounds.

        Raises:
            ConfigError: if the Imputer was fitted without ``levels``, or X is a frame, which has them as columns.
        """
        series = self._read_again(X)
        if not self.fitted_.radius:
            raise ConfigError("intervals need levels; use Imputer(levels=[80]) and fit again")
        if series.form == "frame":
            raise ConfigError("the intervals of a frame are columns of transform(X); use that")
        found = self.fitted_.bounds(series, self.fitted_.fill(series))
        first = self.channels_first
        return {
            level: tuple(filled_arrays(series, side, channels_first=first) for side in sides)
            for level, sides in found.items()
        }

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the mean squared error of observed cells that are hidden, in variances of the training values.

        Args:
            X: series.
            y: ignored; pipelines pass it.
        """
        series = self._read_again(X)
        return -self.fitted_.error(series)

    def plot(self, X: Any, *, ids: Sequence[Any] | None = None, max_panels: int = 4, steps: int = 400) -> "Figure":
        """Observed values and filled gaps, a panel for each series and channel.

        Args:
            X: series.
            ids: series to draw. Default: those with most missing values.
            max_panels: maximum number of panels.
            steps: time steps of a panel: those with most missing values.
        """
        from seqmix.analysis.plot import plot_gaps

        series = self._read_again(X)
        filled = self.fitted_.fill(series)
        bounds = self.fitted_.bounds(series, filled)
        return plot_gaps(series, filled, bounds, ids=ids, max_panels=max_panels, steps=steps)

    def _plan(self) -> "Plan":
        from seqmix.analysis.filling import Plan

        return Plan(
            self.model,
            self.model_kwargs or {},
            len(self.channels_),
            self.context,
            self.pattern,
            self.rate,
            options.levels(self.levels),
            self.val_size,
            self.seed,
            self._training(),
        )

    def _pack(self) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
        return self.fitted_.pack()

    def _unpack(self, facts: dict[str, Any], tensors: dict[str, "Tensor"]) -> None:
        from seqmix.analysis.filling import unpack_imputer

        self.fitted_ = unpack_imputer(self._plan(), facts, tensors)
        self.task_, self.context_ = self.fitted_.task, self.fitted_.task.series.context
