"""The Forecaster on devices: where models are trained and forecast, and training by two processes."""

import numpy as np
import pytest
import torch
from daily_panel import panel, small

from seqmix import Forecaster
from seqmix.errors import ConfigError
from seqmix.forecasting.training import forecast


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "device = 'cuda:99' is not on this machine; use device='auto' or 'cpu'"),
        (
            {"trainer_kwargs": {"devices": 2, "strategy": "ddp"}},
            "trainer_kwargs: strategy = 'ddp' runs the whole program once for each device; use strategy='ddp_spawn', "
            "or start the program with torchrun",
        ),
        (
            {"trainer_kwargs": {"devices": 0}},
            "trainer_kwargs = {'devices': 0} do not make a Trainer (`Trainer(devices=0)` value is not a valid input "
            "using cpu accelerator); correct that one",
        ),
        (
            {"trainer_kwargs": {"device": 2}},
            "trainer_kwargs: the Trainer of Lightning has no option 'device'; leave it out",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "cross_validation", "predict"])
def test_devices_that_cannot_be_are_refused_before_a_file_is_read(options, message, verb):
    forecaster = small("ZeroShot", **options)
    with pytest.raises(ConfigError) as error:
        getattr(forecaster, verb)("no/such/folder")
    assert str(error.value) == message


def test_a_device_is_one_that_computes(tmp_path):
    with pytest.raises(ConfigError, match="device = 'meta' is not known; use auto, cpu, cuda, cuda:<number> or mps"):
        small(device="meta")
    with pytest.raises(ConfigError, match="device = 'meta' is not known"):
        Forecaster.load(tmp_path / "never read", device="meta")


def test_batches_go_where_the_model_is_and_forecasts_come_back():
    """No second device is needed: tensors on the meta device have a place and no values."""
    fitted = small().fit(panel()).fitted_
    predictor, seen = fitted.members[0].predictor.to("meta"), []

    def observe(module, inputs, output):
        seen.append((inputs[0]["x"].device.type, output.device.type))
        return torch.ones(output.shape)

    predictor.register_forward_hook(observe)
    point, _ = forecast(predictor, fitted.ends.tail(14).batches(None, 1))
    assert seen == [("meta", "meta")] * 2
    assert isinstance(point, np.ndarray) and (point == 1).all()


@pytest.mark.gpu
def test_forecasts_of_a_gpu_are_those_of_the_cpu(tmp_path):
    one, other = (small(device=device, levels=[80]).fit(panel()) for device in ("cpu", "cuda"))
    assert other.tasks_["DLinear"].device.type == "cuda"
    other.save(tmp_path)
    for found in (other.predict(), Forecaster.load(tmp_path, device="cpu").predict()):
        np.testing.assert_allclose(found.iloc[:, 2:], one.predict().iloc[:, 2:], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["DLinear", "Ridge"])
def test_two_processes_are_one_with_twice_the_batch(model, capfd):
    options = {"levels": [80], "max_steps": 20, "model": model}
    one = small(**options, batch_size=32).fit(panel())
    two = small(**options, batch_size=16, trainer_kwargs={"devices": 2}).fit(panel())
    assert two.plan_ == one.plan_
    np.testing.assert_allclose(two.predict().iloc[:, 2:], one.predict().iloc[:, 2:], rtol=1e-4, atol=1e-5)
    # each validation window counts once; the loss of training is that of the first process
    columns = ["step", "val_mse", "val_mae"]
    found, want = (each.history_[columns].astype(float) for each in (two, one))
    np.testing.assert_allclose(found, want, rtol=1e-4)
    assert capfd.readouterr() == ("", "")
