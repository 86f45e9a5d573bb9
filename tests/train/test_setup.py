"""Settings that shape a run before its first batch: frozen parts, precision, deterministic kernels, class weights."""

from __future__ import annotations

import copy

import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.models.inference.compiling import compile_network
from bitfalcon_plugin.tasks.detect import class_weights, detection_loss
from bitfalcon_plugin.train.setup import freeze, repeatable, set_dropout, set_training
from tests.helpers.labels import stacked, targets_of, total
from tests.helpers.tiny_models import CONV, small_model

ROWS = (CONV, (-1, 1, "Conv", [32, 3, 2]), (-1, 2, "C3k2", [32, False]), (-1, 1, "Conv", [64, 3, 2]))
HEAD = [([2, 3], 1, "Detect", ["nc"])]
TARGETS = targets_of(torch.tensor([[4.0, 4, 40, 50], [10, 12, 30, 60]]), torch.tensor([1, 0]), torch.tensor([0, 1]))


def model():
    torch.manual_seed(0)
    return small_model(*ROWS, head=HEAD)


def trained(net) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    "rows, prefixes",
    [
        (None, ()),
        (2, ("model.0.", "model.1.")),
        ([1], ("model.1.",)),
        ((0, 2), ("model.0.", "model.2.")),
        ("4.cv2", ("model.4.cv2.",)),
        (["model.0", "4.cv3"], ("model.0.", "model.4.cv3.")),
        (("2.m.0",), ("model.2.m.0.",)),
    ],
)
def test_what_is_named_is_frozen_and_nothing_else(rows, prefixes):
    net = model()
    frozen = freeze(net, rows)
    everything = {name for name, _ in net.named_parameters()}
    expected = {name for name in everything if name.startswith(prefixes)} if prefixes else set()
    assert trained(net) == everything - expected - {name for name in everything if ".dfl." in name}
    set_training(net, frozen)
    norms = {name: part for name, part in net.named_modules() if isinstance(part, torch.nn.BatchNorm2d)}
    assert norms and all(part.training != f"{name}.".startswith(prefixes or "-") for name, part in norms.items())
    assert freeze(net, None) == () and trained(net) == {name for name in everything if ".dfl." not in name}


def test_dropout_is_that_of_a_head_that_has_it():
    net = small_model(*ROWS, head=[(-1, 1, "Classify", ["nc"])])
    set_dropout(net, 0.25)
    assert net.model[-1].dropout.p == 0.25
    images = torch.rand(2, 3, 64, 64)
    net.train()
    assert not torch.equal(net(images)["logits"], net(images)["logits"])
    set_dropout(model(), 0.25)  # a head without


def test_parts_that_are_not_there_are_refused_together():
    with pytest.raises(UserError) as error:
        freeze(model(), ["9", "4.cv7", "0"])
    assert "freeze=9" in str(error.value) and "freeze=4.cv7" in str(error.value) and "freeze=0" not in str(error.value)


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_kernels_are_asked_for_and_given_back(deterministic):
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    with repeatable(load_settings({"deterministic": deterministic})):
        assert torch.are_deterministic_algorithms_enabled() is (deterministic or before[0])
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic) == before


def test_class_weights_by_hand():
    assert class_weights(torch.tensor([10, 10]), 0.0) is None
    weights = class_weights(torch.tensor([100, 25, 0]), 0.5)
    raw = torch.tensor([0.1, 0.2, 1.0])
    torch.testing.assert_close(weights, raw / raw.mean())


def test_class_weights_multiply_the_entropy_of_their_class():
    net = model()
    raw = net(torch.rand(2, 3, 64, 64))
    plain = detection_loss(raw, TARGETS, sizes=raw.sizes, strides=net.strides)
    ones = detection_loss(raw, TARGETS, sizes=raw.sizes, strides=net.strides, class_weights=torch.ones(2))
    torch.testing.assert_close(stacked(ones), stacked(plain))
    parts = [
        detection_loss(raw, TARGETS, sizes=raw.sizes, strides=net.strides, class_weights=weight)["cls_loss"]
        for weight in (torch.tensor([1.0, 0]), torch.tensor([0, 1.0]), torch.tensor([1.0, 3]))
    ]
    torch.testing.assert_close(parts[0] + 3 * parts[1], parts[2])
    torch.testing.assert_close(parts[0] + parts[1], plain["cls_loss"])
    assert parts[0] > 0 and parts[1] > 0


def test_recomputing_gives_the_same_loss_gradients_and_statistics():
    results = []
    for again in (False, True):
        net = model().train()
        net.checkpointing = again
        torch.manual_seed(1)
        raw = net(torch.rand(2, 3, 64, 64))
        loss = total(detection_loss(raw, TARGETS, sizes=raw.sizes, strides=net.strides))
        loss.backward()
        results.append(
            (
                loss.detach(),
                {name: p.grad for name, p in net.named_parameters() if p.grad is not None},
                copy.deepcopy(dict(net.named_buffers())),
            )
        )
    for plain, recomputed in zip(*results):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=0)


def test_recomputing_keeps_fewer_activations():
    totals = []
    for again in (False, True):
        net = model().train()
        net.checkpointing = again
        sizes: list[int] = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net(torch.rand(2, 3, 64, 64))
        totals.append(sum(sizes))
    assert totals[1] < 0.8 * totals[0]


@pytest.mark.parametrize("setting, mode", [(True, "default"), ("max-autotune", "max-autotune")])
def test_compile_is_asked_for_in_its_mode(monkeypatch, setting, mode):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda net, mode: modes.append(mode) or net)
    net = model()
    assert compile_network(net, False, in_place=False) is net and not modes
    assert compile_network(net, setting, in_place=False) is net and modes == [mode]


def test_a_captured_graph_gives_the_same_outputs_and_gradients():
    net = model().train()
    images = torch.rand(2, 3, 64, 64)
    results = []
    for network in (net, torch.compile(net, backend="aot_eager")):  # what compile= does before it writes code
        net.zero_grad()
        raw = network(images)
        total(detection_loss(raw, TARGETS, sizes=raw.sizes, strides=net.strides)).backward()
        results.append(
            [raw["boxes"].detach(), raw["scores"].detach(), *(p.grad for p in net.parameters() if p.grad is not None)]
        )
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
