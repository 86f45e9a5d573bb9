"""Augmentation of whole images: what each setting does, in which range, and that a seed says all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.augmentation.crop_recipe import CropRecipe, augment_picture, crop_recipe_of, steps_of

OFF = CropRecipe(
    imgsz=32, scale=0, flipud=0, fliplr=0, auto_augment="none", hsv_h=0, hsv_s=0, hsv_v=0, erasing=0
)  # fmt: skip


def ramps(width: int = 48, height: int = 48) -> Image.Image:
    """Red grows to the right, green downwards, blue is 100."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 5, y * 5, np.full_like(x, 100)], -1).astype(np.uint8))


def several(recipe: CropRecipe, count: int = 40, picture: Image.Image | None = None) -> list[torch.Tensor]:
    return [augment_picture(picture or ramps(), recipe, seed) for seed in range(count)]


def test_without_augmentation_a_square_is_only_resized():
    expected = torch.from_numpy(np.array(ramps().resize((32, 32), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    for pixels in several(OFF, 3):
        assert pixels.dtype == torch.uint8 and torch.equal(pixels, expected)


def test_the_area_and_the_aspect_of_the_crop():
    shares, aspects = [], []
    for pixels in several(replace(OFF, scale=0.5), 300):
        red, green = pixels[0].float(), pixels[1].float()  # 5 a pixel of the source
        width, height = (red[:, -1] - red[:, 0]).mean() / 5 / 31 * 32, (green[-1] - green[0]).mean() / 5 / 31 * 32
        shares.append(float(width * height) / 48**2)
        aspects.append(float(width / height))
    assert 0.42 < min(shares) < 0.55 and 0.93 < max(shares) < 1.05 and 0.68 < np.mean(shares) < 0.78
    assert 0.7 < min(aspects) < 0.85 and 1.2 < max(aspects) < 1.42


@pytest.mark.parametrize("setting, axis", [("fliplr", 2), ("flipud", 1)])
def test_flips(setting, axis):
    plain = augment_picture(ramps(), OFF, 0)
    assert all(torch.equal(pixels, plain.flip(axis)) for pixels in several(replace(OFF, **{setting: 1.0}), 3))
    flipped = [torch.equal(pixels, plain.flip(axis)) for pixels in several(replace(OFF, **{setting: 0.5}), 100)]
    assert 30 < sum(flipped) < 70


def test_erasing_sets_a_rectangle_to_black():
    white = Image.new("RGB", (40, 40), (255, 255, 255))
    erased = several(replace(OFF, erasing=0.5), 200, white)
    shares = [1 - pixels[0].float().mean().item() / 255 for pixels in erased]
    assert 70 < sum(share > 0 for share in shares) < 130
    assert all(0.01 < share < 0.36 for share in shares if share)
    for pixels in erased:
        black = (pixels == 0).all(0)
        rows, columns = black.any(1).sum(), black.any(0).sum()
        assert black.sum() == rows * columns and torch.equal(pixels[0], pixels[2])


def test_colours_change_without_a_policy_only():
    coloured = replace(OFF, hsv_h=0.5, hsv_s=0.5, hsv_v=0.5)
    plain = augment_picture(ramps(), OFF, 0)
    assert not any(torch.equal(pixels, plain) for pixels in several(coloured, 10))
    grey = Image.new("RGB", (32, 32), (100, 100, 100))
    levels = [int(pixels[0, 0, 0]) for pixels in several(replace(OFF, hsv_v=0.5), 200, grey)]
    assert 45 <= min(levels) < 65 and 135 < max(levels) <= 155
    with_policy = [several(replace(recipe, auto_augment="randaugment"), 10) for recipe in (OFF, coloured)]
    assert all(torch.equal(one, two) for one, two in zip(*with_policy))
    assert steps_of(replace(OFF, hsv_h=1.0))  # a hue beyond half a turn is no error


@pytest.mark.parametrize("policy, kind", [
    ("randaugment", transforms.RandAugment), ("autoaugment", transforms.AutoAugment), ("augmix", transforms.AugMix),
    ("none", transforms.ColorJitter),
])  # fmt: skip
def test_policies_are_those_of_torchvision(policy, kind):
    steps = steps_of(replace(OFF, auto_augment=policy))
    assert [type(step) for step in steps[:3]] == [
        transforms.RandomResizedCrop, transforms.RandomHorizontalFlip, transforms.RandomVerticalFlip,
    ]  # fmt: skip
    assert type(steps[3]) is kind
    if policy == "randaugment":
        assert (steps[3].num_ops, steps[3].magnitude, steps[3].num_magnitude_bins, steps[3].fill) == (2, 9, 31, None)
    changed = several(replace(OFF, auto_augment=policy), 20)
    assert len({tuple(pixels.flatten().tolist()) for pixels in changed}) > (0 if policy == "none" else 8)


@pytest.mark.parametrize("policy", ["randaugment", "autoaugment", "augmix", "none"])
def test_the_same_pixels_as_steps_of_torchvision_in_this_order(policy):
    recipe = CropRecipe(32, 0.5, 0.3, 0.5, policy, 0.1, 0.4, 0.3, 0.5)
    bilinear = transforms.InterpolationMode.BILINEAR
    policies = {
        "randaugment": transforms.RandAugment,
        "autoaugment": transforms.AutoAugment,
        "augmix": transforms.AugMix,
    }
    policy_step = (
        policies[policy](interpolation=bilinear) if policy in policies else transforms.ColorJitter(0.3, 0.3, 0.4, 0.1)
    )
    steps = transforms.Compose([
        transforms.RandomResizedCrop(32, scale=(0.5, 1.0), interpolation=bilinear),
        transforms.RandomHorizontalFlip(0.5), transforms.RandomVerticalFlip(0.3), policy_step, transforms.ToTensor(),
        transforms.RandomErasing(0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3)),
    ])  # fmt: skip
    picture = ramps(60, 45)
    for seed in range(8):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            expected = steps(picture)
        assert torch.equal(augment_picture(picture, recipe, seed).float() / 255, expected)


def test_a_seed_says_all_and_no_generator_moves():
    full = replace(OFF, scale=0.5, fliplr=0.5, flipud=0.5, auto_augment="augmix", erasing=0.5)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (augment_picture(ramps(), full, seed) for seed in (2**64 - 1, 2**64 - 1, 3))
    assert torch.equal(one, two) and not torch.equal(one, other) and torch.equal(torch.get_rng_state(), before)
    with pytest.raises(TypeError):
        augment_picture(None, full, 3)
    assert torch.equal(torch.get_rng_state(), before)  # after an error too


def test_settings():
    recipe = crop_recipe_of(load_settings({"imgsz": 64, "auto_augment": "AugMix", "erasing": 0.1}), closed=True)
    assert (recipe.imgsz, recipe.scale, recipe.auto_augment, recipe.erasing, recipe.fliplr) == (
        64,
        0.5,
        "augmix",
        0.1,
        0.5,
    )
    for none in (None, "none"):
        recipe = crop_recipe_of(load_settings({"auto_augment": none}), closed=False)
        assert recipe.auto_augment == "none" and recipe.described()["ranges"]["hsv_s"] == 0.7
    assert "hsv_s" not in crop_recipe_of(load_settings({}), False).described()["ranges"]
    with pytest.raises(UserError, match="expected one of randaugment, autoaugment, augmix, none.*randaugment"):
        load_settings({"auto_augment": "randaugmnt"})
