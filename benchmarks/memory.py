"""Peak memory of training and forecasting on ten times the memory allowed: panels, tokens, images, waveforms.

    python benchmarks/memory.py [--cases panel-fit,tokens] [--mib 64]

Each case is a process of its own that first does the same on a little data, so that imports and what libraries keep are
not counted. Memory is the largest ``RssAnon`` of Linux beyond that: what is not a file, and cannot be freed without
swapping. Pages of mapped files are counted by ``top`` as well, but the system takes them back when it needs them. The
data is ``--mib`` times ten: rows of numbers, bytes of text, bytes of image files and of waveforms.
"""

import argparse
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "memory.csv"
COLUMNS = ("case", "data MiB", "allowed MiB", "peak MiB", "CPU s", "commit", "device")
TIMES = 10


def main() -> None:
    """Measure and write the rows of the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="cases with commas between")
    parser.add_argument("--mib", type=float, default=64, help="memory allowed; the data is ten times as large")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.child, options.mib)
        return
    for case in options.cases.split(","):
        row = measure(case, options.mib)
        print(*(f"{name} {value}" for name, value in row.items()), sep="  ", flush=True)
        _write([row], options.out)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of the CSV."""
    from seqmix.tasks.rows import read_rows

    return read_rows(path)


def table(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The cases, what each was given, and what it took."""
    return [{name: row[name] for name in COLUMNS[:5]} for row in rows]


def measure(case: str, mib: float) -> dict[str, Any]:
    """The row of a case."""
    child = [sys.executable, __file__, "--child", case, "--mib", str(mib)]
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.Popen(child, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
        [(peak, line)] = peaks_of(run)
    size, base, seconds = map(float, line.split())
    row = {"case": case, "data MiB": round(size), "allowed MiB": round(size / TIMES), "peak MiB": round(peak - base, 1)}
    return {**row, "CPU s": round(seconds, 1)}


def peaks_of(run: "subprocess.Popen[str]") -> Iterator[tuple[float, str]]:
    """Lines that a process prints, each with its largest anonymous memory in MiB since it has said ``begin``.

    Raises:
        RuntimeError: if it fails.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in run.stdout or ()])
    reader.start()
    peak = 0.0
    while reader.is_alive() or not lines.empty():
        peak = max(peak, anonymous(run.pid))
        with suppress(queue.Empty):
            line = lines.get(timeout=0.005)
            if not line.startswith("begin"):
                yield peak, line
            peak = 0.0
    if run.wait():
        raise RuntimeError(f"{run.args} failed: {run.stderr.read()[-2000:] if run.stderr else run.returncode}")


def anonymous(pid: int | str = "self") -> float:
    """Memory of a process that is not a file, in MiB; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def _child(case: str, mib: float) -> None:
    make, use = CASES[case]
    small, large = Path("small"), Path("large")
    for folder, size in ((small, 1.0), (large, TIMES * mib)):
        folder.mkdir()
        # in a process of its own: memory that was used once is kept
        if pid := os.fork():
            assert os.waitpid(pid, 0)[1] == 0
        else:
            make(folder, size)
            os._exit(0)
    use(small)
    base, begin = anonymous(), time.process_time()
    print("begin", flush=True)
    use(large)
    size = sum(file.stat().st_size for file in large.rglob("*.*") if file.is_file())
    size = size / 2**20 if make is not _panel else TIMES * mib
    print(size, base, time.process_time() - begin)


def _panel(folder: Path, mib: float) -> None:
    """Hours of series of 5,000 rows with three covariates, in files of 25 series: 45 bytes of values a row."""
    import pandas as pd

    rng, rows = np.random.default_rng(0), 5000
    count = max(2, round(mib * 2**20 / 45 / rows))
    stamps = pd.date_range("2020-01-01", periods=rows, freq="h").to_numpy()
    for first in range(0, count, 25):
        n = min(25, count - first)
        frame = pd.DataFrame(
            {
                "unique_id": np.repeat([f"s{i:06}" for i in range(first, first + n)], rows),
                "ds": np.tile(stamps, n),
                "y": rng.normal(size=n * rows),
                "price": rng.normal(size=n * rows),
                "promo": rng.random(n * rows) < 0.1,
                "load": rng.normal(size=n * rows),
                "zone": np.repeat(rng.choice(["north", "south"], n), rows),
            }
        )
        frame.to_parquet(folder / f"{first:06}.parquet")


def _forecaster(**options: Any) -> Any:
    from seqmix import Forecaster

    names = {"past_covariates": ["load"], "future_covariates": ["price", "promo"], "static_covariates": ["zone"]}
    return Forecaster("DLinear", 24, max_steps=50, calendar=True, device="cpu", **names, **options)


def _fit_panel(folder: Path) -> None:
    _forecaster().fit(folder)


def _predict_panel(folder: Path) -> None:
    forecaster = _forecaster().fit(Path("small"))
    future = forecaster.make_future_dataframe(folder).assign(price=0.0, promo=False)
    forecaster.predict(folder, future_df=future)


def _cross_validate_panel(folder: Path) -> None:
    _forecaster().cross_validation(folder)


def _fit_ridge(folder: Path) -> None:
    from seqmix import Forecaster

    Forecaster("Ridge", 24, context_length=48, device="cpu").fit(folder)


def _text(folder: Path, mib: float) -> None:
    """One file of text without documents."""
    rng = np.random.default_rng(0)
    words = np.array([bytes(rng.integers(97, 123, rng.integers(2, 9)).astype(np.uint8)) for _ in range(2000)], object)
    with (folder / "text.txt").open("wb") as file:
        while file.tell() < mib * 2**20:
            chosen = rng.choice(words, 100_000)
            file.write(b"\n".join(b" ".join(chosen[i : i + 20]) for i in range(0, len(chosen), 20)) + b"\n")


def _fit_tokens(folder: Path) -> None:
    model = ["--model", "CausalLM", "--model.model.mixer", "Mamba", "--model.model.d_model", "32"]
    data = ["--data", "TextFiles", "--data.train", str(folder / "text.txt"), "--data.cache", str(folder)]
    _run(["fit", *data, *model, "--trainer.max_steps", "20", "--trainer.limit_val_batches", "5"])


def _images(folder: Path, mib: float) -> None:
    """JPEG files of 600 x 600 pixels, links to 20 of them."""
    from PIL import Image

    rng, made = np.random.default_rng(0), []
    for part in ("train", "val"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
    size, number = 0, 0
    while size < mib * 2**20:
        path = folder / ("val" if number % 20 == 0 else "train") / "ab"[number % 2] / f"{number:06}.jpg"
        if len(made) < 20:
            Image.fromarray(rng.integers(0, 256, (600, 600, 3), np.uint8)).save(path, quality=90)
            made.append(path)
        else:
            os.link(made[number % 20], path)
        size, number = size + path.stat().st_size, number + 1


def _fit_images(folder: Path) -> None:
    data = ["--data", "ImageFolder", "--data.path", str(folder.resolve()), "--data.img_size", "64"]
    model = ["--model", "ImageClassification", "--model.model", "poolformer_s12", "--data.n_workers", "0"]
    limits = ["--trainer.limit_train_batches", "20", "--trainer.max_epochs", "1", "--data.batch_size", "16"]
    _run(["fit", *data, *model, *limits, "--trainer.limit_val_batches", "3"])


def _waves(folder: Path, mib: float) -> None:
    """Recordings of the ten words."""
    rng = np.random.default_rng(0)
    words = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
    for number in range(max(200, round(mib * 2**20 / 32_044))):
        path = folder / words[number % 10] / f"{number:08x}_nohash_0.wav"
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(rng.integers(-999, 999, 16_000).astype("<i2").tobytes())


def _fit_waves(folder: Path) -> None:
    from seqmix.data import SpeechCommands

    data = SpeechCommands(10, 20, path=str(folder), cache=str(folder.resolve().parent / f"cache-{folder.name}"))
    for number, _ in zip(range(200), data.train_dataloader(), strict=False):
        assert number >= 0


def _run(words: list[str]) -> None:
    from seqmix import cli

    # the command line prints tables, and this process one line
    with open(os.devnull, "w") as nothing:
        out, sys.stdout = sys.stdout, nothing
        try:
            code = cli.run([*words, "--test", "false", "--trainer.accelerator", "cpu"])
        finally:
            sys.stdout = out
    assert not code, code


CASES: dict[str, tuple[Callable[[Path, float], None], Callable[[Path], None]]] = {
    "panel-fit": (_panel, _fit_panel),
    "panel-predict": (_panel, _predict_panel),
    "panel-cross-validation": (_panel, _cross_validate_panel),
    "ridge-fit": (_panel, _fit_ridge),
    "tokens-fit": (_text, _fit_tokens),
    "images-fit": (_images, _fit_images),
    "waveforms": (_waves, _fit_waves),
}


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    from seqmix.environment import environment
    from seqmix.tasks.rows import write_rows

    facts = environment()
    rows = [{**row, "commit": facts["commit"] + "+" * facts["dirty"], "device": facts["cpu"]} for row in rows]
    done = {row["case"] for row in rows}
    rows += [row for row in read(path) if row["case"] not in done]
    write_rows(path, sorted(rows, key=lambda row: list(CASES).index(row["case"])))


if __name__ == "__main__":
    main()
