"""Base of Classifier, Imputer and AnomalyDetector: options, reading, training, saving, scikit-learn conventions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError as SklearnNotFittedError

from seqmix.analysis.series import Collection, Columns, Flat, read_series
from seqmix.errors import ConfigError, DataError, NotFittedError, check_fraction
from seqmix.estimator import Estimator
from seqmix.forecasting.options import check_device, check_flag, check_positive, names, whole

# torch and lightning load with the first call that needs them, not with the name
if TYPE_CHECKING:
    from torch import Tensor

    from seqmix.forecasting.training import Training

E = TypeVar("E", bound="SeriesEstimator")


class NotFitted(NotFittedError, SklearnNotFittedError):
    """The error of an estimator that is not fitted, for those who catch that of scikit-learn."""


class SeriesEstimator(Estimator, BaseEstimator, ABC):
    """An estimator of scikit-learn that takes collections of series, and long frames."""

    #: what an array of rank 2 is: ``series`` is (n, T), ``table`` is (T, C)
    flat: ClassVar[Flat]
    #: number of the format of saved folders
    version: ClassVar[int] = 1

    model: Any
    channels_first: bool
    channels: Sequence[str] | None
    freq: str | int | None
    fill_gaps: bool
    max_steps: int
    batch_size: int
    lr: float
    patience: int | None
    val_size: float
    seed: int
    device: str
    verbose: bool
    model_kwargs: dict[str, Any] | None

    columns_: Columns
    channels_: tuple[str, ...]
    fitted_: Any

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.three_d_array = True
        return tags

    @abstractmethod
    def _pack(self) -> tuple[dict[str, Any], dict[str, "Tensor"]]:
        """Pack the fitted state as plain values and tensors."""

    @abstractmethod
    def _unpack(self, facts: dict[str, Any], tensors: dict[str, "Tensor"]) -> None:
        """Take the facts and tensors of ``_pack``."""

    def save(self, path: str | Path) -> None:
        """Write options and weights to a folder: a JSON file and ``weights.safetensors``; no pickle."""
        from seqmix.forecasting.archive import write_archive

        self._check_fitted()
        facts, tensors = self._pack()
        facts |= {"columns": vars(self.columns_), "channels": self.channels_, "features": self.n_features_in_}
        write_archive(type(self).__name__, self.version, self.get_params(), facts, tensors, Path(path))

    @classmethod
    def load(cls: type[E], path: str | Path, *, device: str = "auto", trusted: Sequence[str] = ()) -> E:
        """Load a fitted estimator from a folder that ``save`` wrote, or a repository of the Hugging Face Hub.

        Args:
            path: the folder, or ``owner/name`` of the repository.
            device: device for computations.
            trusted: modules of your own models, to be imported; modules of seqmix and torch, and those that are already
                imported, need not be named.
        """
        from seqmix.forecasting.archive import read_archive

        def unpack(options: dict[str, Any], facts: dict[str, Any], tensors: dict[str, "Tensor"]) -> E:
            made = cls(**{**options, "device": device})
            columns = dict(facts["columns"])
            columns["channels"] = columns["channels"] and tuple(columns["channels"])
            made.columns_, made.channels_ = Columns(**columns), tuple(facts["channels"])
            made.n_features_in_ = facts["features"]
            made._unpack(facts, tensors)
            return made

        given = cls.__name__, cls.version, path, names("trusted", trusted), cls._names(), unpack
        return read_archive(*given)[1]

    def _check_shared(self) -> None:
        """Refuse options that no estimator takes."""
        if not (callable(self.model) or (isinstance(self.model, str) and self.model)):
            raise ConfigError(f"model = {self.model!r} is not a model; use a name, a class or a partial")
        for name in ("channels_first", "fill_gaps", "verbose"):
            check_flag(name, getattr(self, name), "True or False")
        for name in ("max_steps", "batch_size"):
            whole(name, getattr(self, name), 1, False)
        whole("patience", self.patience, 1, True)
        whole("seed", self.seed, 0, False)
        check_positive("lr", self.lr, "1e-3")
        check_device(self.device)
        if isinstance(self.val_size, bool) or not isinstance(self.val_size, Real):
            raise ConfigError(f"val_size should be a fraction, got {self.val_size!r}; use for example 0.2")
        check_fraction(val_size=float(self.val_size))
        if self.channels is not None:
            names("channels", self.channels)
        if self.model_kwargs is not None and not isinstance(self.model_kwargs, dict):
            raise ConfigError(
                f"model_kwargs = {self.model_kwargs!r} is not a dictionary; use for example {{'d_model': 32}}"
            )

    def _channel_names(self) -> tuple[str, ...] | None:
        return None if self.channels is None else tuple(names("channels", self.channels))

    def _read(self, X: Any, columns: Columns) -> Collection:
        """Series to fit on; the facts that scikit-learn asks for are kept, and those of an earlier fit are not."""
        self._forget()
        found = read_series(X, columns, flat=self.flat, channels_first=self.channels_first)
        fixed = {"channels": found.channels, "freq": found.freq} if found.form == "frame" else {}
        self.columns_ = replace(columns, **fixed)
        self.channels_ = found.channels
        # columns of an array of rank 2, else channels
        self.n_features_in_ = len(found.values[0]) if found.form == "series" else len(found.channels)
        return found

    def _read_again(self, X: Any) -> Collection:
        """Series of the same channels as in the fit.

        Raises:
            NotFittedError: before a fit.
            DataError: for other channels.
        """
        self._check_fitted()
        found = read_series(X, self.columns_, flat=self.flat, channels_first=self.channels_first)
        have, want = len(found.channels), len(self.channels_)
        if have != want:
            turned = found.form != "frame" and not self.channels_first and want in found.values[0].shape
            raise DataError(
                f"X has {have} features, but {type(self).__name__} is expecting {want} features as input: as many "
                "channels as it was fitted on; give the same ones" + ", or pass channels_first=True" * turned
            )
        return found

    def _check_fitted(self) -> None:
        if not hasattr(self, "fitted_"):
            raise NotFitted(f"this {type(self).__name__} is not fitted; call fit() or load()")

    def _training(self) -> "Training":
        """Training options of the model."""
        from seqmix.forecasting.machine import where
        from seqmix.forecasting.training import Training

        device, stage = where(self.device), "fit" if self.verbose else None
        return Training(self.max_steps, self.batch_size, self.lr, self.patience, device, stage, trainer_kwargs={})
