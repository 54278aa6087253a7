"""One scene: a textured canvas and the digits on it, later ones over earlier ones.

What a scene looks like depends on (split, index) alone. Random numbers come from ``RandomState``, whose streams numpy
has frozen.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from vmamba_tasks.classification.data import Digits

SIZE = 128  # pixels a side
COUNTS = {"train": 480, "val": 80}  # scenes
DIGITS = (2, 5)  # digits a scene, fewest and most
SIDES = (26, 40)  # a digit's square in pixels, smallest and largest
INK = 0.5  # opacity from which a pixel belongs to the digit
VISIBLE = 0.7  # share of its pixels that every digit keeps when others are put over it
TRIES = 20  # places tried for a digit before the scene goes without it

CLASSES = tuple(str(digit) for digit in range(10))  # category_id 1 .. 10 of the boxes
MAP_CLASSES = ("background", *CLASSES)  # values 0 .. 10 of the class maps
MAP_PALETTE = (
    (60, 60, 60), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48),
    (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212),
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """``image`` uint8 (SIZE, SIZE, 3) RGB; ``owner`` uint8 (SIZE, SIZE): 0 background, k the k-th digit's visible part;
    ``labels``: the digits 0 .. 9, in the order of ``owner``."""

    image: np.ndarray
    owner: np.ndarray
    labels: tuple[int, ...]

    def class_map(self) -> np.ndarray:
        """uint8 (SIZE, SIZE): 0 background, digit + 1 elsewhere."""
        return np.array([0, *(label + 1 for label in self.labels)], dtype=np.uint8)[self.owner]


def scene(split: str, index: int) -> Scene:
    """The scene ``index`` of ``split`` ("train" or "val"); the two splits show different handwriting."""
    random = np.random.RandomState([list(COUNTS).index(split), index])
    pixels, digits = _handwriting(split)
    image = _canvas(random)
    owner = np.zeros((SIZE, SIZE), dtype=np.uint8)
    labels: list[int] = []
    for _ in range(random.randint(DIGITS[0], DIGITS[1] + 1)):
        which, side = random.randint(len(pixels)), random.randint(SIDES[0], SIDES[1] + 1)
        opacity = (2 * _enlarge(pixels[which] / 255.0, side) - 0.2).clip(0, 1)  # a firm edge at 0.35 of full ink
        colour = random.uniform(150, 255, 3)
        place = _place(random, owner, opacity > INK)
        if place is None:
            continue
        labels.append(int(digits[which]))
        image[place] += (colour - image[place]) * opacity[..., None]
        owner[place][opacity > INK] = len(labels)
    return Scene(np.round(image).clip(0, 255).astype(np.uint8), owner, tuple(labels))


def _place(random: np.random.RandomState, owner: np.ndarray, ink: np.ndarray) -> tuple[slice, slice] | None:
    """A window for ``ink`` that leaves enough of every digit already in ``owner``; None if there seems to be none."""
    full = np.bincount(owner.ravel())
    side = len(ink)
    for _ in range(TRIES):
        y, x = random.randint(0, SIZE - side + 1, 2)
        window = slice(y, y + side), slice(x, x + side)
        covered = np.bincount(owner[window][ink], minlength=len(full))
        if (covered[1:] <= (1 - VISIBLE) * full[1:]).all():
            return window
    return None


def _canvas(random: np.random.RandomState) -> np.ndarray:
    """Float64 (SIZE, SIZE, 3): coloured clouds, a grating and grain, darker than the digits."""
    clouds = random.normal(70, 28, (random.randint(4, 11),) * 2 + (3,))
    image = np.stack([_enlarge(clouds[..., channel], SIZE) for channel in range(3)], axis=-1)
    y, x = np.mgrid[:SIZE, :SIZE]
    angle, period, strength = random.uniform(0, np.pi), random.uniform(6, 30), random.uniform(0, 20)
    grating = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    return (image + strength * grating[..., None] + random.normal(0, 8, image.shape)).clip(0, 255)


def _enlarge(values: np.ndarray, side: int) -> np.ndarray:
    """Square ``values`` brought to (side, side) by cubic interpolation."""
    weights = _cubic(len(values), side)
    return weights @ values @ weights.T


@cache
def _cubic(old: int, new: int) -> np.ndarray:
    """(new, old): the weights of cubic convolution with a = -0.5 (Keys 1981), edges repeated, pixel centres aligned."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        source = np.floor(centre).astype(int) + tap
        t = np.abs(centre - source)
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        np.add.at(weights, (np.arange(new), source.clip(0, old - 1)), np.where(t <= 1, near, far))
    return weights


@cache
def _handwriting(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (N, 8, 8) and labels (N,) of the classification task's own split."""
    digits = Digits(split == "train", "L")
    return digits.pixels, digits.labels
