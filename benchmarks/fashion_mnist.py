"""One small MetaFormer, eleven mixers, Fashion-MNIST: accuracy, parameters, images per second, over seeds.

Only the mixer differs: stem of stride 2, a block on 14 x 14 tokens of width 24, two blocks on 7 x 7 tokens of width 48.
Each run takes 2 epochs over 20,000 of the training images, with one setting for all mixers that was tuned for none.
5,000 other training images are for validation; the test images are seen once, after the last step. Images per second
are of training, on one core, by CPU time. Needs Fashion-MNIST in ``$SEQMIX_DATA`` or ``./data``.

python benchmarks/fashion_mnist.py                                     # what results/fashion_mnist.csv lacks
python benchmarks/fashion_mnist.py --mixers Hydra Attention2d --seeds 0
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import matplotlib
from training import one_quiet_thread, trainer

from seqmix.commands.tables import markdown
from seqmix.data.images.fashion import FashionMNIST
from seqmix.environment import environment
from seqmix.mixers import Hydra
from seqmix.tasks import AdamW, ImageClassification
from seqmix.tasks.rows import append_rows
from seqmix.vision import Attention2d, Identity2d, MetaFormer, Pool2d, Rand2d, Raster, SepConv2d
from seqmix.vision.affnet import AFF2d
from seqmix.vision.ffnet import FFNifiedAttention2d
from seqmix.vision.iformer import Inception2d
from seqmix.vision.raftmlp import Raft2d
from seqmix.vision.ss2d import SS2D

# name of the mixer, system whose mixer it is, factory; sizes fit widths of 24 and 48
MIXERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "Identity2d": ("IdentityFormer", Identity2d),
    "Rand2d": ("RandFormer", Rand2d),
    "Pool2d": ("PoolFormer", Pool2d),
    "SepConv2d": ("ConvFormer", SepConv2d),
    "Attention2d": ("CAFormer", partial(Attention2d, head_dim=8)),
    "Raft2d": ("RaftMLP", Raft2d),
    "FFNifiedAttention2d": ("FFNet", FFNifiedAttention2d),
    "Inception2d": ("iFormer", partial(Inception2d, head_dim=8)),
    "AFF2d": ("AFFNet", AFF2d),
    "SS2D": ("ViM2", partial(SS2D, expand=1)),
    "Hydra": ("Hydra-ViT", partial(Raster, mixer=partial(Hydra, d_state=16, headdim=24, expand=1))),
}
SETTINGS: dict[str, Any] = {"n_train": 20_000, "epochs": 2, "lr": 2e-3, "batch_size": 64}


def main() -> None:
    """Train what the CSV lacks, then print the table of all it holds and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixers", nargs="+", default=list(MIXERS), choices=MIXERS, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fashion_mnist.csv")
    args = parser.parse_args()
    one_quiet_thread()

    for seed in args.seeds:
        for mixer in args.mixers:
            if not any((row["mixer"], row["seed"]) == (mixer, str(seed)) for row in read(args.out)):
                row = {"mixer": mixer, "system": MIXERS[mixer][0], "seed": seed, **SETTINGS, **_train(mixer, seed)}
                append_rows(args.out, [row])
                print(*row.values(), flush=True)
    rows = read(args.out)
    if rows:
        print(markdown(table(rows)))
        draw(table(rows), args.out.with_suffix(".png"))


def network(mixer: str) -> Callable[..., MetaFormer]:
    """The backbone with one of the mixers, still to be told the classes and channels."""
    return partial(MetaFormer, depths=(1, 2), dims=(24, 48), stem=(3, 2, 1), mixers=[MIXERS[mixer][1]], img_size=28)


def _train(mixer: str, seed: int) -> dict[str, Any]:
    pl.seed_everything(seed, verbose=False)
    data = FashionMNIST(SETTINGS["batch_size"], n_train=SETTINGS["n_train"], seed=seed)
    task = ImageClassification(
        network(mixer), data.n_classes, data.n_channels, optim=AdamW(lr=SETTINGS["lr"], weight_decay=0.05, warmup=0.1)
    )
    fitting = trainer(max_epochs=SETTINGS["epochs"])
    started = time.process_time()
    fitting.fit(task, data)
    seconds = time.process_time() - started
    (val,) = pl.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu").validate(task, data, verbose=False)
    (test,) = fitting.test(task, data, verbose=False)
    return {
        "val_accuracy": round(val["val_accuracy"], 4),
        "test_accuracy": round(test["test_accuracy"], 4),
        "test_images": int(test["test_images"]),
        "parameters": sum(p.numel() for p in task.parameters() if p.requires_grad),
        "images_per_second": round(SETTINGS["epochs"] * SETTINGS["n_train"] / seconds),
        "cpu_seconds": round(seconds, 1),
        "commit": environment()["commit"],
    }


def read(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV that were trained with the present settings."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if all(row[name] == str(n) for name, n in SETTINGS.items())]


def table(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """One line for each mixer, the most accurate first: means, and the deviation of the accuracy, over the seeds."""
    lines = []
    for mixer in dict.fromkeys(row["mixer"] for row in rows):
        runs = [row for row in rows if row["mixer"] == mixer]
        found = [100 * float(row["test_accuracy"]) for row in runs]
        lines.append(
            {
                "mixer": mixer,
                "system": runs[0]["system"],
                "test accuracy, %": round(statistics.mean(found), 2),
                "± over seeds": round(statistics.stdev(found), 2) if len(found) > 1 else "",
                "parameters": int(runs[0]["parameters"]),
                "images/s": round(statistics.median(float(row["images_per_second"]) for row in runs)),
                "seeds": len(runs),
            }
        )
    return sorted(lines, key=lambda line: -line["test accuracy, %"])


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over speed, one dot for each mixer, its area in proportion to the parameters."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for line in lines:
        x, y, spread = line["images/s"], line["test accuracy, %"], line["± over seeds"] or 0
        axes.errorbar(x, y, yerr=spread, color="0.6", linewidth=1, zorder=1)
        axes.scatter(x, y, s=line["parameters"] / 1500, zorder=2)
        axes.annotate(f" {line['mixer']}", (x, y), xytext=(6, 5), textcoords="offset points", fontsize=10)
    axes.set(xscale="log", xlabel="images per second in training, one core", ylabel="test accuracy, %")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("{x:,.0f}")
    axes.set_title(f"One MetaFormer, {len(lines)} mixers, Fashion-MNIST", loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
