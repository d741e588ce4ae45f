"""Links to classes of other packages, through intersphinx and inventories that are written here.

Published inventories would be fetched at every build, which then fails without a network or with a site that is down.
The annotations of this package name few classes of others: their addresses stand here, by the name Python gives them.
Each is an address, with its anchor, to which other sites linked in 2026.
"""

import zlib
from pathlib import Path

from sphinx.application import Sphinx

_TORCH_NN = {
    f"torch.nn.modules.{file}.{name}": f"generated/torch.nn.{name}.html#torch.nn.{name}"
    for file, name in (("module", "Module"), ("batchnorm", "BatchNorm1d"), ("batchnorm", "BatchNorm2d"))
}
_ABSTRACT = ("Callable", "Iterable", "Iterator", "Mapping", "Sequence")
_SITES = {
    "https://docs.python.org/3/": {
        **{f"collections.abc.{name}": f"library/collections.abc.html#collections.abc.{name}" for name in _ABSTRACT},
        **{f"typing.{name}": f"library/typing.html#typing.{name}" for name in ("Any", "Protocol")},
        "abc.ABC": "library/abc.html#abc.ABC",
        "pathlib.Path": "library/pathlib.html#pathlib.Path",
    },
    "https://docs.pytorch.org/docs/stable/": {
        **_TORCH_NN,
        "torch.Tensor": "tensors.html#torch.Tensor",
        "torch.device": "tensor_attributes.html#torch.device",
        "torch.optim.optimizer.Optimizer": "optim.html#torch.optim.Optimizer",
        "torch._C.Generator": "generated/torch.Generator.html#torch.Generator",
    },
    "https://numpy.org/doc/stable/": {
        "numpy.ndarray": "reference/generated/numpy.ndarray.html#numpy.ndarray",
        "numpy.random._generator.Generator": "reference/random/generator.html#numpy.random.Generator",
    },
    "https://pandas.pydata.org/docs/": {
        f"pandas.{name}": f"reference/api/pandas.{name}.html#pandas.{name}"
        for name in ("DataFrame", "Index", "Timedelta")
    },
    "https://scikit-learn.org/stable/": {
        f"sklearn.base.{name}": f"modules/generated/sklearn.base.{name}.html#sklearn.base.{name}"
        for name in ("BaseEstimator", "ClassifierMixin", "TransformerMixin")
    },
    "https://lightning.ai/docs/pytorch/stable/": {
        "lightning.pytorch.core.module.LightningModule": "common/lightning_module.html",
        "lightning.pytorch.core.datamodule.LightningDataModule": "data/datamodule.html",
        "lightning.pytorch.callbacks.callback.Callback": "extensions/callbacks.html",
    },
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    folder = Path(app.doctreedir)
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for address, places in _SITES.items():
        name = address.split("/")[2].replace(".", "_")
        head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: stable\n# The remainder is zlib\n"
        lines = "".join(f"{target} py:class 1 {place} -\n" for target, place in places.items())
        inventory = folder / f"{name}.inv"
        inventory.write_bytes(head.encode() + zlib.compress(lines.encode()))
        mapping[name] = (address, str(inventory))
    app.setup_extension("sphinx.ext.intersphinx")
    app.config.intersphinx_mapping = mapping
    return {"parallel_read_safe": True, "parallel_write_safe": True}
