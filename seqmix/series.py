"""Sizes of a forecasting data set, from which models are built."""

from dataclasses import dataclass, fields, replace

from seqmix.errors import ConfigError


@dataclass(frozen=True)
class Series:
    """Sizes of the windows of a data set; the one positional argument of every forecasting model.

    A datamodule has them as ``data.series``; the command line passes them to the task, so they are not part of a
    config.

    Args:
        n_channels: number of channels (variates) C.
        context: lookback length, in time steps.
        horizon: forecast length, in time steps.
        n_outputs: numbers forecast per value K; 1 for a point forecast.
        n_future: known-future inputs per time step F; 0 for none.
        n_static: static inputs per channel S; 0 for none.
        n_past: inputs per time step that are known for the window only P; 0 for none.
        season: length of the natural season, in time steps; 1 for none.

    Raises:
        ConfigError: if a size is out of range.
    """

    n_channels: int
    context: int
    horizon: int
    n_outputs: int = 1
    n_future: int = 0
    n_static: int = 0
    n_past: int = 0
    season: int = 1

    def __post_init__(self):
        for fact in fields(self):
            size, least = getattr(self, fact.name), int(fact.name not in ("n_future", "n_static", "n_past"))
            if size < least:
                raise ConfigError(f"{fact.name} must be at least {least}, got {size}; set it to {least} or more")

    @property
    def covariates(self) -> dict[str, int]:
        """Number of the inputs of each kind that there are: ``future``, ``static``, ``past``."""
        sizes = {"future": self.n_future, "static": self.n_static, "past": self.n_past}
        return {kind: size for kind, size in sizes.items() if size}

    def without_covariates(self) -> "Series":
        """The same data for a model that uses the values of the channels only."""
        return replace(self, n_future=0, n_static=0, n_past=0)
