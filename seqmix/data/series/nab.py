"""NAB, the Numenta anomaly benchmark: 58 series of one channel with labeled windows."""

import io
import json
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from seqmix.data.files import DEMO, data_folder
from seqmix.data.series.detection_data import AnomalySeries, DetectionData, check_train_share
from seqmix.errors import ConfigError, DataError

_NOTE = (
    "NAB has known flaws: anomalies that any method finds, wrong labels, and labels that are windows of hundreds of "
    "rows around one event (Wu and Keogh, arXiv:2009.13807); report other data beside it"
)


class NAB(DetectionData):
    """The Numenta anomaly benchmark: machine temperatures, cloud metrics, traffic, tweets, and artificial series.

    The first 15 % of each series, which NAB calls probationary, are its training rows; anomalies in them are not
    counted. Labels are 1 in the published windows around an event. Series without anomalies after the training rows
    are trained on, and have no part in the metrics. The data is read from the folder ``nab`` below ``root``: a clone
    of https://github.com/numenta/NAB, or an archive ``nab.tar.gz`` of its folders ``data`` and ``labels``. It warns of
    its flaws when it is read.

    Args:
        select: the series whose names have this part, such as ``realTraffic`` or ``nyc_taxi``. Default: all.
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.
        train_share: share of training rows.

    Raises:
        ConfigError: if no series is selected, or a share is out of range.
        DataError: if the files are not there, or not those of NAB.

    Source: Lavin and Ahmad, 2015, arXiv:1510.03336. Differs from the original code in: no more than 750 rows are
    probationary there; scores are those of TSB-AD, not the NAB score.
    """

    def __init__(
        self,
        window: int = 64,
        batch_size: int = 128,
        *,
        select: str | None = None,
        root: str | None = None,
        train_share: float = 0.15,
        eval_batch_size: int | None = None,
        stride: int = 1,
        val_share: float = 0.2,
        seed: int | None = None,
    ):
        check_train_share(train_share)
        super().__init__(
            "NAB" if select is None else f"NAB-{select}",
            1,
            window,
            batch_size,
            eval_batch_size=eval_batch_size,
            stride=stride,
            val_share=val_share,
            seed=seed,
        )
        self.select, self.root, self.train_share = select, root, train_share

    def _load(self) -> list[AnomalySeries]:
        warnings.warn(_NOTE, stacklevel=2)
        return read_nab(self.root, self.select, self.train_share)


def read_nab(root: str | None, select: str | None, train_share: float) -> list[AnomalySeries]:
    """Series of NAB in the order of their names; see ``NAB``."""
    read = _reader(data_folder(root) / "nab")
    windows = json.loads(read("labels/combined_windows.json"))
    names = [name for name in sorted(windows) if select is None or select in name]
    if not names:
        groups = ", ".join(sorted({name.partition("/")[0] for name in windows}))
        raise ConfigError(f"select = {select!r} is in no name of a series; use a part of one, such as {groups}")
    found = []
    for name in names:
        frame = pd.read_csv(io.BytesIO(read(f"data/{name}")), parse_dates=["timestamp"])
        labels = np.zeros(len(frame), np.int64)
        for begin, end in windows[name]:
            labels |= frame["timestamp"].between(pd.Timestamp(begin), pd.Timestamp(end)).to_numpy()
        values = frame["value"].to_numpy(np.float64)[:, None]
        found.append(AnomalySeries(name.removesuffix(".csv"), values, labels, int(train_share * len(frame))))
    return found


def _reader(folder: Path) -> Callable[[str], bytes]:
    """Return a function that reads a file of NAB by its path."""
    archive = folder / "nab.tar.gz"
    if archive.exists():
        try:
            with tarfile.open(archive) as tar:
                files = {m.name.removeprefix("./"): tar.extractfile(m).read() for m in tar if m.isfile()}  # pyright: ignore[reportOptionalMemberAccess]
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{archive.name} in {folder} cannot be read ({error}); get a whole copy; {DEMO}") from error
        where = f"in {archive.name} of {folder}"
    elif (folder / "labels").exists():
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.glob("*/**/*") if p.is_file()}
        where = f"in {folder}"
    else:
        raise DataError(
            f"NAB not found in {folder}; `git clone https://github.com/numenta/NAB {folder}`, or set data.root (or "
            f"SEQMIX_DATA); {DEMO}"
        )

    def read(name: str) -> bytes:
        if name not in files:
            raise DataError(f"{name} is missing {where}; get a whole copy of NAB")
        return files[name]

    return read
