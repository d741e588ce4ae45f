"""The contract of datamodules."""

from itertools import islice

import torch
from torch import Tensor

from seqmix.data.loader import ResumableLoader
from seqmix.data.served import SplitData


def check_data(data: SplitData) -> None:
    """Run the whole contract of data on a datamodule with two training batches at least.

    Args:
        data: the datamodule, not set up yet or set up.

    Raises:
        AssertionError: at the first broken promise, with the remedy.
    """
    name = type(data).__name__
    data.prepare_data()
    for _ in range(2):
        data.setup("fit")
    _check_evaluation(name, data)
    _check_training(name, data.train_dataloader())


def _check_evaluation(name: str, data: SplitData) -> None:
    if data.fingerprint() != data.fingerprint():
        raise AssertionError(f"evaluation: {name} has another fingerprint the second time; draw nothing that lasts")
    for loader in (data.val_dataloader(), data.test_dataloader()):
        first, second = list(loader), list(loader)
        if len(first) != len(loader) or _examples(first) != loader.n:
            raise AssertionError(
                f"evaluation: {name} serves {_examples(first)} of {loader.n} examples in {len(first)} of {len(loader)} "
                "batches; serve each once, a smaller last batch too"
            )
        if not _same(first, second):
            raise AssertionError(
                f"evaluation: {name} serves other validation or test batches the second time; draw none"
            )


def _check_training(name: str, loader: ResumableLoader) -> None:
    if len(loader) < 2:
        raise AssertionError(f"training: {name} has {len(loader)} training batches; give data with two at least")
    # two examples are in the same order in every second epoch
    whole, *later = [list(loader) for _ in range(8)]
    if _examples(whole) != loader.n:
        raise AssertionError(f"training: {name} serves {_examples(whole)} of {loader.n} examples; drop none")
    if loader.shuffle and all(_same(whole, epoch) for epoch in later):
        raise AssertionError(f"training: {name} serves every epoch in the same order; draw an order for each epoch")
    loader.set_epoch(0)
    if not _same(whole, list(loader)):
        raise AssertionError(
            f"training: {name} serves another first epoch the second time; draw by seed and epoch only"
        )
    loader.set_epoch(0)
    served = list(islice(loader, 1))
    state = loader.state_dict()
    loader.set_epoch(5)
    loader.load_state_dict(state)
    if not _same(whole, served + list(loader)):
        raise AssertionError(f"training: {name} does not resume with the batch that follows; see ResumableLoader")


def _examples(batches: list[dict[str, Tensor]]) -> int:
    return sum(len(next(iter(batch.values()))) for batch in batches)


def _same(first: list[dict[str, Tensor]], second: list[dict[str, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )
