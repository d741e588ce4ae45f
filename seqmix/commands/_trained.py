"""Loading of trained models from a config and a checkpoint, without their training data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jsonargparse import Namespace

from seqmix.commands._parser import Parser
from seqmix.commands.train import LINKED, Train
from seqmix.data.text.corpora import Corpus
from seqmix.data.text.tokenizer import Tokenizer
from seqmix.errors import ConfigError
from seqmix.models import TokenModel
from seqmix.tasks import CausalLM, ImageClassification, Task
from seqmix.vision import ImageModel


def trained_task(config: str | None, ckpt_path: str | None) -> tuple[Task, Namespace]:
    """Build the task of a config with the weights of a checkpoint; also returns the config.

    The facts of the data are those in the checkpoint.

    Args:
        config: config of the run. Default: the ``config.yaml`` beside the checkpoint.
        ckpt_path: a file; or ``best`` or ``last`` of the newest run of ``config``. Default: ``best``.

    Raises:
        ConfigError: if there is no such run, or the checkpoint is of another model.
    """
    if config is None:
        beside = Path(ckpt_path or "").parent / "config.yaml"
        if ckpt_path in (None, "best", "last") or not beside.is_file():
            raise ConfigError(f"ckpt_path = {ckpt_path!r} has no config.yaml beside it; pass --config, as to fit")
        config = str(beside)
    cli = Train("predict", ["--config", config, "--ckpt_path", ckpt_path or "best"], build=False)
    state = torch.load(cast(Path, cli.ckpt_path), map_location="cpu", weights_only=True)
    known = state.get("hyper_parameters", {})
    facts = {name: known[name] for name in LINKED if name in known}
    parser = Parser(prog="seqmix predict")
    parser.add_subclass_arguments(Task, "model")
    model = cli.config["model"].as_dict()
    given = parser.parse_object({"model": {**model, "init_args": {**model["init_args"], **facts}}})
    task = parser.instantiate_classes(given)["model"]
    task.on_load_checkpoint(state)
    task.load_state_dict(state["state_dict"])
    return task.eval(), cli.config


def trained_language_model(config: str | None, ckpt_path: str | None) -> tuple[TokenModel, Tokenizer]:
    """Load a trained causal language model and its tokenizer."""
    task, settings = trained_task(config, ckpt_path)
    if not isinstance(task, CausalLM):
        raise ConfigError(
            f"`seqmix generate` needs a causal language model, {type(task).__name__} is none; fit CausalLM"
        )
    parser = Parser(prog="seqmix generate")
    parser.add_subclass_arguments(Corpus, "data")
    data = parser.instantiate_classes(parser.parse_object({"data": settings["data"].as_dict()}))["data"]
    return task.model, data.tokenizer


def trained_image_model(
    config: str | None, ckpt_path: str | None
) -> tuple[ImageModel, Mapping[str, Any], Sequence[str]]:
    """Load a trained image model, its input configuration, and the names of its classes."""
    task, _ = trained_task(config, ckpt_path)
    if not isinstance(task, ImageClassification):
        raise ConfigError(f"{type(task).__name__} has no images to classify; leave out --images")
    if task.input_cfg is None:
        raise ConfigError("the checkpoint does not say how images were prepared; train with `seqmix fit`")
    return task.model, task.input_cfg, task.class_names or [str(k) for k in range(task.model.num_classes)]
