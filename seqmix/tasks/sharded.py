"""FSDP, ``--trainer.strategy fsdp2``: weights, gradients and optimizer state divided among the processes of a run."""

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from seqmix.errors import ConfigError

# what FSDP takes for a forward pass of the task: it gathers the weights before
_STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class Sharded(ModelParallelStrategy):
    """FSDP2 over all processes, on GPUs or CPUs; a checkpoint is one file, as that of one process.

    Source: ``torch.distributed.fsdp.fully_shard``. Differs from ``ModelParallelStrategy`` in: there is no tensor
    parallelism, and each process reads checkpoints by itself, so that those of other strategies are read too.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The optimizer is restored as in other strategies."""
        return True

    def setup_environment(self) -> None:
        """Start communication among all processes; the Trainer then has the weights divided.

        Raises:
            ConfigError: if a callback averages weights.
        """
        task = self.lightning_module
        assert task is not None
        if any(isinstance(callback, WeightAveraging) for callback in task.trainer.callbacks):  # pyright: ignore[reportAttributeAccessIssue]
            raise ConfigError(
                "trainer.callbacks: weights are averaged in a copy of the whole model, and trainer.strategy = 'fsdp2' "
                "divides it; leave one of them out"
            )
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        # only here: Lightning warns of models that have this method when weights are averaged
        task.configure_model = partial(shard, task, self.device_mesh["data_parallel"])

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; its tensors are memory-mapped."""
        return torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take over this process's part of the weights."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self._whole, checkpoint["state_dict"], options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take over this process's part of the state of the optimizers."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
        from torch.distributed.fsdp import FullyShardedDataParallel, OptimStateKeyType

        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = FullyShardedDataParallel.rekey_optim_state_dict(state, OptimStateKeyType.PARAM_NAME, self._whole)
            options = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(self._whole, optimizer, named, options=options)

    @property
    def _whole(self) -> nn.Module:
        assert self.model is not None
        return self.model


def shard(task: nn.Module, mesh: DeviceMesh) -> None:
    """Divide the weights of a task among the processes of ``mesh``, layer by layer, in place.

    Parameters that are fitted in closed form stay whole: each process fits them on all of the data.

    Raises:
        ConfigError: if there are no others.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    # a fit is followed by a test of the same task
    if isinstance(task, FSDPModule):
        return
    fitted = {p for module in task.modules() if getattr(module, "closed_form", False) for p in module.parameters()}
    if all(p in fitted for p in task.parameters()):
        raise ConfigError(
            "trainer.strategy = 'fsdp2' divides weights that are trained, and this model has none; use "
            "--trainer.strategy ddp, or one device"
        )
    name = type(task).__name__
    # no model changes what a layer returns in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
    for layer in _layers(task):
        fully_shard(layer, mesh=mesh, ignored_params=fitted)
    fully_shard(task, mesh=mesh, ignored_params=fitted)
    # FSDP makes a class of its own, and results name the task
    type(task).__name__ = name
    for step in _STEPS:
        register_fsdp_forward_method(task, step)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Members of the outermost lists of modules, blocks and stages, that have a forward pass of their own."""
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield child
        else:
            yield from _layers(child)


StrategyRegistry.register("fsdp2", Sharded, description="FSDP: weights, gradients and optimizer state are divided")
