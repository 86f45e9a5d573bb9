"""Helpers for networks and trainings of dropin.utils.torch_utils, compared with torch itself."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitfalcon_plugin.dropin.utils import torch_utils as utils
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.tiny_models import CONV, small_model


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "CPU"])
def test_devices(device, capsys):
    assert utils.select_device(device) == torch.device("cpu")
    assert utils.select_device(None, verbose=False).type == utils.select_device("", verbose=False).type
    if not isinstance(device, torch.device):
        assert "torch-" in capsys.readouterr().out
    with pytest.raises(ValueError, match="Invalid CUDA 'device=77'"):
        utils.select_device("77")


def normed(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).eval()
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("bias", [False, True])
def test_folding(bias):
    conv, norm, x = nn.Conv2d(4, 8, 3, groups=2, bias=bias), normed(8), torch.rand(2, 4, 9, 9)
    torch.testing.assert_close(utils.fuse_conv_and_bn(conv, norm)(x), norm(conv(x)), rtol=1e-4, atol=1e-5)
    turned = nn.ConvTranspose2d(4, 8, 2, 2, groups=2, bias=bias)
    torch.testing.assert_close(utils.fuse_deconv_and_bn(turned, norm)(x), norm(turned(x)), rtol=1e-4, atol=1e-5)


def test_sizes(capsys):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))
    net[2].requires_grad_(False)
    assert utils.get_num_params(net) == 3 * 8 * 9 + 8 + 32 and utils.get_num_gradients(net) == 3 * 8 * 9 + 8
    expected = 2 * 64 * 64 * (3 * 8 * 9 + 32) / 1e9
    assert utils.get_flops(net, 64) == pytest.approx(expected) == utils.get_flops(net, [64, 64])
    assert utils.model_info(net, imgsz=64) == (3, 256, 224, pytest.approx(expected))
    assert "3 layers, 256 parameters, 224 gradients" in capsys.readouterr().out
    utils.model_info(net, detailed=True, imgsz=64)
    assert "0.weight" in capsys.readouterr().out and utils.model_info(net, verbose=False) is None
    assert utils.get_flops(nn.Linear(3, 3)) == 0.0 and net.training


def test_flops_of_a_detector_are_those_of_info():
    from bitfalcon_plugin.models.summary import summary

    model = small_model(CONV, CONV, CONV)
    assert utils.get_flops(model, 64) == pytest.approx(summary(model, 64).gflops) and model.training


def test_state_dicts_and_attributes():
    first = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(4)}
    second = {"a": torch.ones(2), "b": torch.ones(4), "c": torch.ones(4)}
    assert list(utils.intersect_dicts(first, second)) == ["a", "c"]
    assert list(utils.intersect_dicts(first, second, exclude=["c"])) == ["a"]
    target = SimpleNamespace()
    utils.copy_attr(target, SimpleNamespace(a=1, b=2, _c=3), exclude=["b"])
    assert vars(target) == {"a": 1}
    utils.copy_attr(target, SimpleNamespace(a=5, b=2), include=["b"])
    assert vars(target) == {"a": 1, "b": 2}


def test_wrapped_networks():
    net = nn.Linear(2, 2)
    wrapped = nn.DataParallel(net)
    assert utils.is_parallel(wrapped) and not utils.is_parallel(net)
    assert utils.de_parallel(wrapped) is net is utils.unwrap_model(net)


def test_initial_values_and_images():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.SiLU())
    utils.initialize_weights(net)
    assert (net[0].eps, net[0].momentum, net[1].inplace) == (1e-3, 0.03, True)
    images = torch.rand(1, 3, 64, 96)
    assert utils.scale_img(images) is images
    scaled = utils.scale_img(images, 0.83)
    assert scaled.shape == (1, 3, 64, 96) and float(scaled[..., -1].min()) == pytest.approx(0.447)
    plain = F.interpolate(images, size=(53, 79), mode="bilinear", align_corners=False)
    torch.testing.assert_close(scaled[..., :53, :79], plain)
    assert utils.scale_img(images, 0.5, same_shape=True).shape == (1, 3, 64, 96)


def test_the_average_of_weights():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = utils.ModelEMA(net)
    assert average.updates == 0 and average.decay(100) == pytest.approx(0.0488, abs=1e-4)
    start = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight += 1
    average.update(net)
    share = 0.9999 * (1 - math.exp(-1 / 2000))
    torch.testing.assert_close(average.ema[0].weight, start * share + (start + 1) * (1 - share))
    assert average.updates == 1 and not average.ema.training and not average.ema[0].weight.requires_grad
    net.names = {0: "a"}
    average.update_attr(net, include=["names"])
    assert average.ema.names == {0: "a"}
    other = utils.ModelEMA(net, decay=0.5, tau=1, updates=10)
    assert other.updates == 10 and other.decay(1000) == pytest.approx(0.5)


def test_early_stopping():
    stopper = utils.EarlyStopping(patience=3)
    assert stopper.best_fitness == 0.0 and not stopper(0, 0.5) and not stopper(1, 0.4) and not stopper(2, None)
    assert not stopper.possible_stop and not stopper(2, 0.3) and stopper.possible_stop
    assert stopper(3, 0.2) and (stopper.best_fitness, stopper.best_epoch) == (0.5, 0)
    assert not utils.EarlyStopping(0)(10**6, 0.0)


def test_schedules_and_seeds():
    cosine = utils.one_cycle(1, 0.1, 50)
    assert cosine(0) == 1 and cosine(25) == pytest.approx(0.55) and cosine(50) == pytest.approx(0.1)
    utils.init_seeds(3)
    first = torch.rand(2)
    utils.init_seeds(3)
    assert torch.equal(first, torch.rand(2))
    utils.unset_deterministic()


def test_contexts_and_clocks():
    with utils.autocast(False, "cpu"), utils.torch_distributed_zero_first(-1), utils.cuda_memory_usage() as usage:
        assert usage == {"memory": 0}

    @utils.smart_inference_mode()
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    assert double(torch.ones(1, requires_grad=True)).requires_grad is False
    assert utils.time_sync() > 0 and utils.TORCH_2_0 is True and utils.get_cpu_info()


def test_profiles():
    results = utils.profile(torch.rand(1, 3, 32, 32), [nn.Conv2d(3, 4, 1), nn.Linear(5, 5)], n=2, device="cpu")
    assert results[0][0] == 16 and results[0][3] > 0 and results[0][5:] == [(1, 3, 32, 32), (1, 4, 32, 32)]
    assert results[1] is None and utils.profile_ops is utils.profile


def test_a_checkpoint_without_its_training(tmp_path):
    model = small_model(CONV)
    path = tmp_path / "last.pt"
    save_checkpoint(path, Checkpoint(model.graph, model.state_dict(), training={"epoch": 3}, epoch=2))
    content = utils.strip_optimizer(path, tmp_path / "best.pt")
    assert content["training"] is None and load_checkpoint(path).training == {"epoch": 3}
    assert load_checkpoint(tmp_path / "best.pt").training is None
    utils.strip_optimizer(path)
    assert load_checkpoint(path).training is None and load_checkpoint(path).epoch == 2


def test_states_of_optimizers_in_half_precision():
    state = {"state": {0: {"step": torch.ones(1), "exp_avg": torch.ones(2)}}}
    utils.convert_optimizer_state_dict_to_fp16(state)
    assert state["state"][0]["exp_avg"].dtype == torch.float16 and state["state"][0]["step"].dtype == torch.float32
