"""What the parity tests of image models share."""

import torch
from goldens import fill

from seqmix.vision import create_model


def assert_logits_of_the_original(name, index):
    """Weights under their own keys, loaded strictly; logits to 1e-4 of their standard deviation."""
    golden = fill.load(name)
    model = create_model(name).eval()
    model.load_state_dict(golden["state_dict"], strict=True)
    assert count(model) == golden["parameters"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == golden["trainable"]
    x, want = golden["inputs"][index], golden["outputs"][index]
    with torch.no_grad():
        got = model(x)
    assert (got - want).abs().max() < 1e-4 * want.std()
    return model, x, got


def assert_sensible_at_other_sizes(name):
    """Finite logits that differ from image to image, at sizes that are not square and larger than published."""
    model = create_model(name).eval()
    for size in ((192, 256), (384, 384)):
        with torch.no_grad():
            y = model(torch.randn(2, 3, *size))
        assert y.isfinite().all() and (y[0] - y[1]).abs().max() > 0


def count(model):
    return sum(p.numel() for p in model.parameters())


def shuffled(module, std=0.2):
    """Move parameters and running statistics off their initial values, since zeros and ones hide mistakes."""
    with torch.no_grad():
        for p in module.parameters():
            p += std * torch.randn_like(p)
        for key, buffer in module.named_buffers():
            if key.endswith("running_mean"):
                buffer += std * torch.randn_like(buffer)
            if key.endswith("running_var"):
                buffer += std * torch.rand_like(buffer)
    return module.eval()
