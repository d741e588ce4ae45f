"""Contract checks for every kind of member; a failed check raises an ``AssertionError`` with the remedy.

``check_mixer(MyMixer)``, ``check_grid_mixer(MyGridMixer)``, ``check_model(MyModel)``, ``check_encoder(MyEncoder)``,
``check_task(task, data)`` and ``check_data(data)``. The tests of seqmix run them on its own members.
"""

from typing import TYPE_CHECKING

from seqmix.importing import lazily
from seqmix.testing.closeness import assert_close_ratio
from seqmix.testing.encoder import check_encoder
from seqmix.testing.grid_mixer import check_grid_mixer
from seqmix.testing.mixer import (
    CHECKS,
    check_batch,
    check_causality,
    check_compile,
    check_determinism,
    check_dtypes,
    check_gradients,
    check_lengths,
    check_mask,
    check_matrix,
    check_mixer,
    check_signature,
    check_state,
    check_state_dict,
    check_step,
)
from seqmix.testing.model import check_model

if TYPE_CHECKING:
    from seqmix.testing.data import check_data
    from seqmix.testing.task import check_task

__all__ = [
    "CHECKS",
    "assert_close_ratio",
    "check_batch",
    "check_causality",
    "check_compile",
    "check_data",
    "check_determinism",
    "check_dtypes",
    "check_encoder",
    "check_gradients",
    "check_grid_mixer",
    "check_lengths",
    "check_mask",
    "check_matrix",
    "check_mixer",
    "check_model",
    "check_signature",
    "check_state",
    "check_state_dict",
    "check_step",
    "check_task",
]

# what imports lightning, which a check of a mixer does not need
__getattr__, _ = lazily(__name__)


def __dir__() -> list[str]:
    return sorted(__all__)
