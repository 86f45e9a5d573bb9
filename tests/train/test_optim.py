"""Groups, optimizer choice, schedule and average against numbers worked out by hand."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.train.optim import (
    AVERAGES,
    OPTIMIZERS,
    Ema,
    Schedule,
    choose_optimizer,
    full_accumulate,
    parameter_groups,
    planned_iterations,
    scaled_decay,
    step_is_due,
)


class Small(nn.Module):
    """Two convolutions, a norm of each sort, a bare scale, a frozen layer and one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 1)
        self.layer_norm = nn.LayerNorm(4)
        self.gamma = nn.Parameter(torch.full((4,), 0.01))
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.again = nn.Conv2d(3, 4, 3, bias=False)
        self.again.weight = self.first.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.second(self.bn(self.first(images))) * self.gamma[:, None, None]
        return self.layer_norm(self.frozen(features).movedim(1, -1))


def names_of(model: nn.Module, group: dict) -> list[str]:
    return [
        name for name, value in model.named_parameters() if any(value is parameter for parameter in group["params"])
    ]


def choose(name: str, model: nn.Module | None = None, **changes):
    given = {"lr": 0.02, "momentum": 0.8, "warmup_bias_lr": 0.1, "iterations": 100, "nc": 3} | changes
    return choose_optimizer(name, parameter_groups(model or Small(), 0.0005), **given)


# ---- groups --------------------------------------------------------------------------------------------------------


def test_groups_are_bias_weight_norm_and_hold_each_trained_parameter_once():
    model = Small()
    bias, weight, norm = parameter_groups(model, 0.0005)
    assert names_of(model, bias) == ["bn.bias", "second.bias", "layer_norm.bias"]
    assert names_of(model, weight) == ["gamma", "first.weight", "second.weight"]
    assert names_of(model, norm) == ["bn.weight", "layer_norm.weight"]
    assert [group["weight_decay"] for group in (bias, weight, norm)] == [0.0, 0.0005, 0.0]
    assert [group["kind"] for group in (bias, weight, norm)] == ["bias", "weight", "norm"]
    assert sum(len(group["params"]) for group in (bias, weight, norm)) == 8


def test_a_model_with_nothing_to_train_is_refused_and_empty_groups_are_not():
    with pytest.raises(UserError, match="frozen"):
        parameter_groups(Small().requires_grad_(False), 0.0)
    plain = nn.Conv2d(3, 4, 3, bias=False)
    for name in OPTIMIZERS:
        optimizer, _ = choose(name, plain)
        plain(torch.ones(1, 3, 3, 3)).sum().backward()
        optimizer.step()
        assert [len(group["params"]) for group in optimizer.param_groups] == [0, 1, 0]


@pytest.mark.parametrize(
    ("batch", "nbs", "accumulate", "decay"),
    [(16, 64, 4, 0.0005), (64, 64, 1, 0.0005), (128, 64, 1, 0.001), (24, 64, 3, 0.0005625), (8, 16, 2, 0.0005)],
)
def test_decay_follows_the_images_of_one_step(batch, nbs, accumulate, decay):
    assert full_accumulate(batch, nbs) == accumulate
    assert scaled_decay(0.0005, batch, nbs) == pytest.approx(decay)


def test_planned_iterations():
    assert planned_iterations(images=205, batch=16, nbs=64, epochs=60) == 240  # ceil(205 / 64) * 60
    assert planned_iterations(images=118287, batch=128, nbs=64, epochs=600) == 925 * 600


# ---- choice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "defaults"),
    [
        ("SGD", torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        ("adam", torch.optim.Adam, {"betas": (0.8, 0.999)}),
        ("ADAMAX", torch.optim.Adamax, {"betas": (0.8, 0.999)}),
        ("adamw", torch.optim.AdamW, {"betas": (0.8, 0.999)}),
        ("NAdam", torch.optim.NAdam, {"betas": (0.8, 0.999)}),
        ("radam", torch.optim.RAdam, {"betas": (0.8, 0.999)}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.8}),
    ],
)
def test_every_name_is_the_torch_optimizer_with_the_given_values(name, kind, defaults):
    optimizer, plan = choose(name)
    assert type(optimizer) is kind
    assert {key: optimizer.defaults[key] for key in defaults} == defaults
    assert [group["lr"] for group in optimizer.param_groups] == [0.02] * 3
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0005, 0.0]
    assert (plan.name.lower(), plan.lr, plan.momentum, plan.decay) == (name.lower(), 0.02, 0.8, 0.0005)
    assert plan.warmup_bias_lr == 0.1
    assert "0.02" in str(plan) and "0.0005" in str(plan) and plan.name in str(plan)


@pytest.mark.parametrize(
    ("iterations", "nc", "name", "lr"),
    [
        (10_000, 80, "AdamW", 0.000119),  # 0.01 / 84
        (1, 2, "AdamW", 0.001667),  # 0.01 / 6
        (240, 3, "AdamW", 0.001429),  # 0.01 / 7
        (10_001, 3, "SGD", 0.01),
    ],
)
def test_auto(iterations, nc, name, lr):
    optimizer, plan = choose("Auto", iterations=iterations, nc=nc)
    assert (plan.name, plan.lr, plan.momentum, plan.warmup_bias_lr) == (name, lr, 0.9, 0.0)
    assert type(optimizer).__name__ == name and optimizer.param_groups[0]["lr"] == lr
    group = optimizer.param_groups[0]
    assert group.get("momentum", group.get("betas", (None,))[0]) == 0.9
    assert str(iterations) in plan.reason and "not used" in plan.reason


def test_unknown_optimizers_are_refused():
    with pytest.raises(UserError, match="Did you mean 'AdamW'"):
        choose("AdmW")
    with pytest.raises(UserError, match="MuSGD is not supported"):
        choose("musgd")


def test_fused_and_plain_kernels_agree():
    torch.manual_seed(0)
    for name, (kind, arguments, _) in OPTIMIZERS.items():
        model = Small().double()  # in float32 the first steps of RAdam and NAdam turn rounding into differences
        twin = copy.deepcopy(model)
        optimizer, _ = choose(name, model)
        assert bool(optimizer.defaults.get("fused")) == (name in ("SGD", "Adam", "AdamW"))
        plain = kind(parameter_groups(twin, 0.0005), lr=0.02, foreach=False, **arguments(0.8))
        for step in range(3):
            images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            for trained, stepper in ((model, optimizer), (twin, plain)):
                stepper.zero_grad()
                trained(images).square().mean().backward()
                stepper.step()
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_sgd_without_momentum_is_allowed():
    optimizer, _ = choose("SGD", momentum=0.0)
    assert optimizer.defaults["nesterov"] is False


# ---- schedule ------------------------------------------------------------------------------------------------------

LONG = Schedule(
    epochs=10,
    batches=200,
    batch=16,
    nbs=64,
    lr=0.01,
    momentum=0.9,
    lrf=0.1,
    cos_lr=False,
    warmup_epochs=3.0,
    warmup_momentum=0.8,
    warmup_bias_lr=0.1,
)


def test_factor_is_linear_or_cosine():
    assert [LONG.factor(epoch) for epoch in (0, 5, 10, 11)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    cosine = replace(LONG, cos_lr=True)
    assert [cosine.factor(epoch) for epoch in (0, 5, 10)] == pytest.approx([1.0, 0.55, 0.1])
    assert cosine.factor(2) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 5)) / 2)  # 0.914
    assert LONG.factor(2) == pytest.approx(0.82)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 600),
        ({"batches": 13, "epochs": 60}, 100),  # 39 by the epochs, raised to the floor
        ({"batches": 13, "epochs": 10}, 65),  # the floor is more than half of 130
        ({"epochs": 4}, 400),
        ({"warmup_epochs": 0.0}, 0),
        ({"batches": 1, "epochs": 1}, 0),
        ({"warmup_epochs": 1.26, "batches": 100}, 126),
    ],
)
def test_length_of_warmup(changes, expected):
    assert replace(LONG, **changes).warmup == expected


def test_accumulation_grows_during_warmup():
    # 1 + 3 * ni / 600, rounded: 1.5 at 100 rounds to the even 2, 2.5 at 300 to 2, 3.5 at 500 to 4
    counts = {ni: LONG.accumulate(ni) for ni in (0, 99, 101, 300, 301, 499, 500, 600, 601, 1999)}
    assert counts == {0: 1, 99: 1, 101: 2, 300: 2, 301: 3, 499: 3, 500: 4, 600: 4, 601: 4, 1999: 4}
    assert replace(LONG, warmup_epochs=0.0).accumulate(0) == 4
    assert [replace(LONG, batch=128).accumulate(ni) for ni in (0, 300, 700)] == [1, 1, 1]
    tiny = replace(LONG, batch=1, batches=3, epochs=2)  # 6 batches in all: 64 would never step
    assert [tiny.accumulate(ni) for ni in (0, 3, 4)] == [1, 6, 6]


def test_apply_sets_rates_and_momentum():
    optimizer, _ = choose("SGD")
    assert LONG.apply(optimizer, 0, 0) == 1
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.0, 0.0]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.8] * 3
    assert LONG.apply(optimizer, 300, 1) == 2
    rate = 0.01 * 0.91  # epoch 1 of 10
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([(0.1 + rate) / 2, rate / 2, rate / 2])
    assert [group["momentum"] for group in optimizer.param_groups] == pytest.approx([0.85] * 3)
    for ni, epoch in ((600, 3), (601, 3), (1999, 9)):
        assert LONG.apply(optimizer, ni, epoch) == 4
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 * LONG.factor(epoch)] * 3)
        assert [group["momentum"] for group in optimizer.param_groups] == pytest.approx([0.9] * 3)


def test_apply_without_warmup_and_with_an_optimizer_without_momentum():
    optimizer, _ = choose("AdamW")
    assert replace(LONG, warmup_epochs=0.0).apply(optimizer, 0, 0) == 4
    assert [group["lr"] for group in optimizer.param_groups] == [0.01] * 3
    LONG.apply(optimizer, 0, 0)
    assert all("momentum" not in group and group["betas"] == (0.8, 0.999) for group in optimizer.param_groups)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.0, 0.0]


def test_steps_fall_where_enough_batches_came_together():
    schedule, last, steps = replace(LONG, warmup_epochs=0.0), -1, []
    for ni in range(12):
        if step_is_due(ni, last, schedule.accumulate(ni)):
            steps.append(last := ni)
    assert steps == [3, 7, 11]
    assert step_is_due(0, -1, 1)


def test_a_loaded_optimizer_still_knows_its_groups():
    model = Small()
    optimizer, _ = choose("SGD", model)
    other, _ = choose("SGD", model)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    LONG.apply(other, 0, 0)
    assert [group["lr"] for group in other.param_groups] == [0.1, 0.0, 0.0]


# ---- average -------------------------------------------------------------------------------------------------------


def test_average_follows_the_formula_for_weights_and_statistics():
    torch.manual_seed(0)
    model = Small()
    ema = Ema(model)
    expected = {key: value.clone().double() for key, value in model.state_dict().items()}
    for update in range(1, 4):
        model(torch.randn(2, 3, 8, 8))  # moves the statistics of the batch norm and its counter
        with torch.no_grad():
            for parameter in set(model.parameters()):
                parameter.add_(torch.randn_like(parameter))
        ema.update(model)
        d = 0.9999 * (1 - math.exp(-update / 2000))
        for key, value in model.state_dict().items():
            expected[key] = d * expected[key] + (1 - d) * value if value.is_floating_point() else value.clone()
    assert ema.updates == 3
    for key, value in ema.model.state_dict().items():
        torch.testing.assert_close(value, expected[key].to(value.dtype))
    assert ema.model.bn.num_batches_tracked == 3 and not torch.equal(ema.model.bn.running_mean, model.bn.running_mean)


def test_decay_at_known_counts():
    share = AVERAGES["rising"].share
    assert share(0) == 0 and share(2000) == pytest.approx(0.9999 * (1 - 1 / math.e))
    assert share(10**6) == pytest.approx(0.9999)


@pytest.mark.parametrize("rule", AVERAGES)
def test_the_average_of_trained_weights_remembers_twenty_updates(rule):
    share, tuned = AVERAGES[rule].share, AVERAGES[rule].tuned
    assert 1 / (1 - share(tuned)) == pytest.approx(20, rel=0.02) and share(1) < 0.2
    assert all(share(updates) <= share(updates + 1) <= 0.9999 for updates in (1, 10, 1000, 10**6))


def test_a_growing_average_remembers_a_ninth_of_the_updates():
    weights, average = torch.linspace(0, 1, 901, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for number, value in enumerate(weights, start=1):  # weights that go at an even pace lag by the memory
        share = AVERAGES["growing"].share(number)
        average = share * average + (1 - share) * value
    assert 1 - average.item() == pytest.approx(1 / 10, abs=0.01)


def test_average_is_a_copy_in_evaluation_mode_that_stays_where_it_is():
    model = Small().train()
    ema = Ema(model)
    assert model.training and not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if "frozen" not in name)
    places = {key: value.data_ptr() for key, value in ema.model.state_dict().items()}
    ema.update(model)
    assert {key: value.data_ptr() for key, value in ema.model.state_dict().items()} == places
    assert not set(places.values()) & {value.data_ptr() for value in model.state_dict().values()}
    assert ema.model.again.weight is ema.model.first.weight  # moved once, not twice


def test_average_can_be_taken_up_again():
    torch.manual_seed(0)
    model, other = Small(), Small()
    ema = Ema(model)
    for _ in range(5):
        ema.update(other)
    again = Ema(Small())
    again.load(copy.deepcopy(ema.model.state_dict()), ema.updates)
    assert again.updates == 5
    ema.update(model)
    again.update(model)
    for key, value in ema.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key])
    with pytest.raises(RuntimeError):
        again.load(nn.Linear(2, 2).state_dict(), 1)


def test_average_of_trained_weights_remembers_from_the_start():
    torch.manual_seed(0)
    model, other = Small(), Small()
    fresh, tuned = Ema(model), Ema(model, 4000)
    fresh.update(other)
    tuned.update(other)
    decay = 0.9999 * (1 - math.exp(-4001 / 2000))
    expected = decay * model.first.weight + (1 - decay) * other.first.weight
    torch.testing.assert_close(tuned.model.first.weight, expected)
    assert 0.8 < decay < 0.9 and torch.allclose(fresh.model.first.weight, other.first.weight, atol=1e-3)
