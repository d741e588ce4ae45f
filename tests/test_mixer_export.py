"""Mixers exported by torch.export for batches and lengths of every size."""

import pytest
import torch
from torch.export import Dim, export

from seqmix.mixers import list_mixers, mixer_facts

# chunks, pooling over segments, a transform; the others take a second each
FAST = ("PoNet", "S4D", "Toeplitz")
# they choose a number of queries or lags by the logarithm of the length, or step from position to position, which fixes
# the length in a graph
FIXED = ("AutoCorrelation", "ProbSparse", "SLSTM")
FREE = [name for name in list_mixers() if name not in FIXED]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in FREE])
@torch.no_grad()
def test_lengths_are_free(name):
    facts = mixer_facts(name)
    mixer = facts.cls(8, 128, **facts.examples[0]).eval()
    x, mask = torch.randn(2, 20, 8), torch.arange(20) < torch.tensor([[20], [7]])
    # with a mask AFF and FNet transform rows of equal length together: a loop over the data, which no graph has
    cases = {"AFF": [(x,)], "FNet": [(x,)], "PoNet": [(x,), (x, mask)]}
    for given in cases.get(name, [(x, mask)]):
        shapes = ({0: Dim.AUTO, 1: Dim.AUTO},) * len(given)
        graph = export(mixer, given, dynamic_shapes=shapes).module()
        for L in (13, 100):
            fresh = (torch.randn(3, L, 8), torch.arange(L) < torch.tensor([[L], [3], [L - 2]]))[: len(given)]
            torch.testing.assert_close(graph(*fresh), mixer(*fresh), rtol=1e-4, atol=1e-4)
