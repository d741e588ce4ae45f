"""The contract of tasks."""

import copy

import torch
from torch import Tensor

from seqmix.data.served import SplitData
from seqmix.tasks import Task


def check_task(task: Task, data: SplitData) -> None:
    """Run the whole contract of tasks on a task and data for it, of two test examples at least.

    Args:
        task: the task, built for the data; it is copied, not changed.
        data: its datamodule.

    Raises:
        AssertionError: at the first broken promise, with the remedy.
    """
    task = copy.deepcopy(task)
    name = type(task).__name__
    data.prepare_data()
    data.setup("fit")
    _check_facts(name, task)
    _check_loss(name, task, next(iter(data.train_dataloader())))
    _check_metrics(name, task, data)


def _check_facts(name: str, task: Task) -> None:
    for fact in ("metrics", "counted", "facts", "extent", "table"):
        if not hasattr(task, fact):
            raise AssertionError(f"facts: {name}.{fact} is missing; set it in the class, see seqmix.tasks.Task")
    if not {*task.table.facts} <= {*task.facts}:
        raise AssertionError(f"facts: the table of {name} shows {task.table.facts}, its facts are {task.facts}")
    if type(task).training_step is not Task.training_step:
        raise AssertionError(f"facts: {name} overrides training_step, which adds auxiliary losses; override loss_of")
    if not task.label:
        raise AssertionError(f"facts: {name}.label is empty; name the model, as results will")


def _check_loss(name: str, task: Task, batch: dict[str, Tensor]) -> None:
    task.train()
    loss = task.loss_of(batch)
    if loss.ndim or not loss.isfinite():
        raise AssertionError(f"loss: loss_of of {name} gives {loss}; return the finite mean over the batch")
    if not any(p.requires_grad for p in task.parameters()):
        return
    loss.backward()
    idle = [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        raise AssertionError(f"loss: {', '.join(idle)} of {name} get no gradient; use them, or set requires_grad false")


def _check_metrics(name: str, task: Task, data: SplitData) -> None:
    task.eval()
    whole, again, alone = (_score(task, data, size) for size in (1000, 1000, 1))
    if whole != again:
        raise AssertionError(f"metrics: {name} scores data with {whole}, then with {again}; zero sums, draw nothing")
    (metrics, count), (others, number) = whole, alone
    if {*metrics} != {*task.metrics}:
        raise AssertionError(f"metrics: finish of {name} gives {tuple(metrics)}; give those of metrics, {task.metrics}")
    off = [key for key, value in metrics.items() if not abs(value - others[key]) <= 1e-4 * max(1.0, abs(value))]
    if off or count != number:
        raise AssertionError(
            f"metrics: {', '.join(off) or task.counted} of {name} depend on the batch size; "
            "add sums and counts to sums, and divide in finish"
        )


def _score(task: Task, data: SplitData, batch_size: int) -> tuple[dict[str, float], float]:
    task.on_test_epoch_start()
    before, data.eval_batch_size = data.eval_batch_size, batch_size
    try:
        with torch.no_grad():
            for batch in data.test_dataloader():
                task.add_batch(batch)
    finally:
        data.eval_batch_size = before
    return task.finish("test")
