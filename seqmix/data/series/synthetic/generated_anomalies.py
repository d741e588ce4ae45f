"""GeneratedAnomalies: data of anomaly detection whose labels are true, for the demo and for comparisons."""

import numpy as np

from seqmix.data.series.detection_data import AnomalySeries, DetectionData, check_train_share
from seqmix.data.series.synthetic.anomalies import KINDS, anomalous
from seqmix.data.served import check_positive
from seqmix.errors import check_choice


class GeneratedAnomalies(DetectionData):
    """Generated periodic series with anomalies of six kinds, several series of each kind, one kind in a series.

    Kinds are ``spike`` (1 to 3 rows), ``level`` (a shift that ends), ``trend`` (a ramp that ends), ``frequency`` (the
    series read slower or faster), ``noise`` and ``flat`` (the first value repeated). Training rows have none.

    Args:
        kinds: kinds of anomalies. Default: all six.
        n_series: series of each kind.
        n_channels: channels; an anomaly is in at least one of them.
        n_steps: rows of a series.
        n_anomalies: anomalies of a series.
        train_share: share of training rows.
        data_seed: seed of the generator.

    Raises:
        ConfigError: if a size is not positive, or a kind is not known.
    """

    def __init__(
        self,
        window: int = 64,
        batch_size: int = 128,
        *,
        kinds: list[str] | None = None,
        n_series: int = 8,
        n_channels: int = 1,
        n_steps: int = 3000,
        n_anomalies: int = 4,
        train_share: float = 0.25,
        data_seed: int = 0,
        eval_batch_size: int | None = None,
        stride: int = 1,
        val_share: float = 0.2,
        seed: int | None = None,
    ):
        check_train_share(train_share)
        check_positive(n_series=n_series, n_steps=n_steps, n_anomalies=n_anomalies)
        self.kinds = list(KINDS) if kinds is None else kinds
        for kind in self.kinds:
            check_choice("kinds", kind, tuple(KINDS))
        name = "Generated" + f"-{'-'.join(self.kinds)}" * (kinds is not None) + f"-{n_channels}" * (n_channels > 1)
        super().__init__(
            name,
            n_channels,
            window,
            batch_size,
            eval_batch_size=eval_batch_size,
            stride=stride,
            val_share=val_share,
            seed=seed,
        )
        self.n_series, self.n_steps, self.n_anomalies = n_series, n_steps, n_anomalies
        self.train_share, self.data_seed = train_share, data_seed

    def _load(self) -> list[AnomalySeries]:
        n_train, found = int(self.train_share * self.n_steps), []
        for kind in self.kinds:
            for i in range(self.n_series):
                # a kind has the same series, whichever others there are
                rng = np.random.default_rng((self.data_seed, list(KINDS).index(kind), i))
                made = anomalous(
                    kind, self.n_steps, self.n_channels, n_train=n_train, n_anomalies=self.n_anomalies, rng=rng
                )
                found.append(AnomalySeries(f"{kind}-{i}", made.values, made.labels, n_train))
        return found
