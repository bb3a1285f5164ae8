"""Ten garments, drawn: each function gives the brightness that one class has on a grid of points.

Axes: x runs to the right and y downwards, both about [-1, 1] over the image. A garment is drawn for many
images at once: what varies from image to image has the shape (N, 1, 1), the grid (N, 28, 28). Only sums,
products, quotients, square roots and comparisons are used, which IEEE 754 rounds in one way: the same dice
give the same bits on every machine (sines would not).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

PIXELS_PER_UNIT = 14.0


class Dice:
    """Random values, one for each image of a group.

    Attributes:
        count: N, the number of images.
    """

    def __init__(self, generator: np.random.Generator, count: int) -> None:
        self.count = count
        self._generator = generator

    def between(self, low: float, high: float, side: int = 1) -> Field:
        """Uniform values (N, side, side) from `low` to `high`."""
        values = self._generator.random((self.count, side, side), dtype=np.float32)
        scaled: Field = values * np.float32(high - low) + np.float32(low)
        return scaled

    def chance(self, probability: float) -> Field:
        """One (N, 1, 1) with this probability, else zero."""
        return np.less(self.between(0, 1), probability).astype(np.float32)


def inside(distance: Field) -> Field:
    """Coverage in [0, 1] from the distance to an edge, positive within: the edge is one pixel soft."""
    covered: Field = np.clip(distance * np.float32(PIXELS_PER_UNIT) + np.float32(0.5), 0, 1)
    return covered


def band(value: Field, low: Field | float, high: Field | float) -> Field:
    """Coverage of the band in which `value` lies from `low` to `high`."""
    covered: Field = np.minimum(inside(value - low), inside(high - value))
    return covered


def ellipse(x: Field, y: Field, half_width: Field, half_height: Field) -> Field:
    """Coverage of an ellipse around the origin."""
    squared: Field = np.square(x / half_width) + np.square(y / half_height)
    return inside((1 - squared) * np.minimum(half_width, half_height) * np.float32(0.5))


def ramp(value: Field, low: Field | float, high: Field | float) -> Field:
    """Rises from 0 at `low` to 1 at `high`, and stays there."""
    risen: Field = np.clip((value - low) / (high - low), 0, 1)
    return risen


def _upper(
    x: Field,
    y: Field,
    *,
    half_width: Field,
    hem: Field,
    flare: Field,
    sleeve: Field,
    spread: Field,
    neck: Field,
) -> Field:
    """What all garments for the upper body share: a body with a neckline and two sleeves, no folds.

    `sleeve` is a length, 0 for none; `spread` says how far a sleeve moves out on its way down.
    """
    aside = np.abs(x)
    shoulder = aside * np.float32(0.22) - np.float32(0.8)
    body = np.minimum(band(y, shoulder, hem), inside(half_width + flare * (y + 0.6) - aside))
    across, down = aside - half_width + 0.08, y + 0.6
    length = np.sqrt(1 + spread * spread)
    along, off = (across * spread + down) / length, (across - down * spread) / length
    thickness = 0.15 - 0.05 * along
    arm = np.minimum(band(along, -0.12, sleeve - 0.1), inside(thickness - np.abs(off))) * (sleeve > 0)
    # A shadow from the armpit down, without which a sleeve that hangs close would vanish in the body.
    shadow = band(off + thickness, -0.06, 0.02) * band(along, 0.15, sleeve - 0.1)
    neckline = ellipse(x, y + 0.82, np.full_like(neck, 0.2), neck)
    whole: Field = np.maximum(body * (1 - 0.7 * shadow), arm) * (1 - neckline)
    return whole


def t_shirt(x: Field, y: Field, dice: Dice) -> Field:
    """Short sleeves, sometimes a print on the chest."""
    shape = _upper(
        x,
        y,
        half_width=dice.between(0.38, 0.56),
        hem=dice.between(0.55, 0.9),
        flare=dice.between(-0.06, 0.08),
        sleeve=dice.between(0.25, 0.6),
        spread=dice.between(0.3, 1.0),
        neck=dice.between(0.1, 0.32),
    )
    on_chest = ellipse(x, y + 0.15, dice.between(0.12, 0.3), dice.between(0.1, 0.3))
    return shape * (1 + dice.chance(0.35) * dice.between(-0.6, 0.4) * on_chest)


def trouser(x: Field, y: Field, dice: Dice) -> Field:
    """Two legs below a waistband."""
    aside, crotch = np.abs(x), dice.between(-0.55, -0.2)
    width = dice.between(0.24, 0.38)
    gap = dice.between(0.0, 0.16) * ramp(y, crotch, 0.9) + 0.03
    outer = width + dice.between(-0.08, 0.16) * ramp(y, -0.9, 0.9)
    legs = np.minimum(inside(outer - aside), np.maximum(inside(aside - gap), inside(crotch - y)))
    waistband = dice.between(0, 0.35) * inside(-0.75 - y)
    shape: Field = np.minimum(legs, band(y, -0.9, dice.between(0.35, 0.92)))
    return shape * (1 - waistband)


def pullover(x: Field, y: Field, dice: Dice) -> Field:
    """Long sleeves, a ribbed hem."""
    hem = dice.between(0.5, 0.85)
    shape = _upper(
        x,
        y,
        half_width=dice.between(0.38, 0.56),
        hem=hem,
        flare=dice.between(-0.08, 0.06),
        sleeve=dice.between(0.95, 1.45),
        spread=dice.between(0.08, 0.45),
        neck=dice.between(0.05, 0.25),
    )
    return shape * (1 - dice.between(0, 0.4) * inside(y - hem + 0.14))


def dress(x: Field, y: Field, dice: Dice) -> Field:
    """Long, drawn in at the waist, sleeves short or none, seldom long."""
    waist: Field = dice.between(0, 0.12) * (1 - ramp(np.abs(y + 0.15), 0, 0.4))
    sleeve = dice.chance(0.55) * dice.between(0.2, 0.5) + dice.chance(0.15) * 0.7
    return _upper(
        x,
        y,
        half_width=dice.between(0.22, 0.36) - waist,
        hem=dice.between(0.75, 0.95),
        flare=dice.between(0.0, 0.2),
        sleeve=sleeve,
        spread=dice.between(0.1, 0.6),
        neck=dice.between(0.1, 0.4),
    )


def coat(x: Field, y: Field, dice: Dice) -> Field:
    """Long sleeves, a long body, open down the front."""
    shape = _upper(
        x,
        y,
        half_width=dice.between(0.38, 0.56),
        hem=dice.between(0.65, 0.95),
        flare=dice.between(-0.05, 0.12),
        sleeve=dice.between(1.0, 1.5),
        spread=dice.between(0.05, 0.35),
        neck=dice.between(0.05, 0.3),
    )
    front = band(x + dice.between(-0.06, 0.06), -0.02, dice.between(0.0, 0.05))
    return shape * (1 - dice.between(0.0, 0.8) * front)


def sandal(x: Field, y: Field, dice: Dice) -> Field:
    """A thin sole, raised at the heel, and straps over it."""
    ground, heel = dice.between(0.3, 0.6), dice.between(0.0, 0.6)
    sole = ground - heel * ramp(x, -0.3, 0.7)
    thickness = dice.between(0.06, 0.16)
    foot = np.minimum(band(x, -0.88, 0.85), band(y, sole - thickness, sole))
    block = np.minimum(band(x, 0.85 - dice.between(0.08, 0.4), 0.85), band(y, sole, ground))
    shape = np.maximum(foot, block)
    above = sole - y
    for low, high in ((-0.7, -0.35), (-0.2, 0.2), (0.35, 0.65)):
        middle, half = dice.between(low, high), dice.between(0.12, 0.35)
        arch = dice.between(0.15, 0.6) * (1 - np.square((x - middle) / half))
        strap = np.minimum(band(above, 0.0, arch), arch > 0)
        hollow = dice.chance(0.7) * inside(arch - dice.between(0.08, 0.25) - above)
        shape = np.maximum(shape, strap * (1 - hollow))
    return shape


def shirt(x: Field, y: Field, dice: Dice) -> Field:
    """Sleeves of any length, a collar and a row of buttons, either of them sometimes hardly seen."""
    shape = _upper(
        x,
        y,
        half_width=dice.between(0.36, 0.56),
        hem=dice.between(0.55, 0.95),
        flare=dice.between(-0.06, 0.1),
        sleeve=np.where(dice.chance(0.35) > 0, dice.between(0.25, 0.7), dice.between(0.9, 1.45)),
        spread=dice.between(0.08, 0.6),
        neck=dice.between(0.08, 0.35),
    )
    buttons = band(x, -0.025, 0.025) * (dice.between(0.2, 1) > np.abs(y))
    collar = band(np.abs(x) - 0.5 * (y + 0.8), 0.08, 0.2) * inside(-0.45 - y)
    detailed: Field = shape * (1 - dice.between(0, 0.6) * buttons) * (1 - dice.between(0, 0.5) * collar)
    return detailed


def _shoe(
    x: Field, y: Field, *, ground: Field, toe: Field, instep: Field, slope: Field, collar: Field
) -> Field:
    """A shoe that points left: its height rises from `toe` at the `instep` to `collar`."""
    height = toe * ramp(x, -1.1, -0.7) + (collar - toe) * ramp(x, instep - slope, instep + slope)
    shape: Field = np.minimum(band(y, ground - height, ground), band(x, -0.92, 0.88))
    return shape


def sneaker(x: Field, y: Field, dice: Dice) -> Field:
    """Low, on a sole of its own brightness, with a stripe on its side."""
    ground = dice.between(0.3, 0.6)
    shape = _shoe(
        x,
        y,
        ground=ground,
        toe=dice.between(0.22, 0.4),
        instep=dice.between(-0.3, 0.2),
        slope=dice.between(0.2, 0.5),
        collar=dice.between(0.45, 0.9),
    )
    sole = inside(y - ground + dice.between(0.08, 0.18))
    side = band(x + dice.between(-0.8, 0.8) * y, -0.1, dice.between(-0.05, 0.12))
    opening = ellipse(
        x - 0.5, y - ground + dice.between(0.6, 1.0), dice.between(0.1, 0.35), np.full_like(ground, 0.12)
    )
    tinted: Field = shape * (1 + dice.between(-0.6, 0.5) * sole) * (1 + dice.between(-0.5, 0.5) * side)
    return tinted * (1 - 0.8 * opening)


def bag(x: Field, y: Field, dice: Dice) -> Field:
    """A body that may widen downwards, mostly with a handle, sometimes with a flap."""
    half_width, top, bottom = dice.between(0.45, 0.88), dice.between(-0.45, 0.1), dice.between(0.45, 0.85)
    sides = inside(half_width + dice.between(-0.15, 0.15) * y - np.abs(x))
    body = np.minimum(sides, band(y, top, bottom))
    rise, half = dice.between(0.2, 0.8), half_width * dice.between(0.4, 0.9)
    ring = ellipse(x, y - top, half, rise) - ellipse(x, y - top, half - 0.1, rise - 0.1)
    flap = inside(top + dice.between(0.1, 0.6) - y)
    shape: Field = np.maximum(body * (1 - dice.between(-0.3, 0.4) * flap), dice.chance(0.8) * ring)
    return shape


def ankle_boot(x: Field, y: Field, dice: Dice) -> Field:
    """A shoe with a shaft, on a heel of any height."""
    ground = dice.between(0.55, 0.88)
    heel = dice.between(0.0, 0.35)
    shape = _shoe(
        x,
        y,
        ground=ground - heel * ramp(x, -0.3, 0.3) * (x < 0.45),
        toe=dice.between(0.25, 0.45),
        instep=dice.between(-0.2, 0.2),
        slope=dice.between(0.06, 0.3),
        collar=dice.between(0.85, 1.65),
    )
    return shape * (1 + dice.between(-0.5, 0.3) * inside(y - ground + 0.12))


DRAWERS: tuple[Callable[[Field, Field, Dice], Field], ...] = (
    t_shirt,
    trouser,
    pullover,
    dress,
    coat,
    sandal,
    shirt,
    sneaker,
    bag,
    ankle_boot,
)
"""In the order of the labels."""
