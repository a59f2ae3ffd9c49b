"""`mini`: scenes drawn from random numbers, with masks of objects and of what tells them apart.

An object is a small *head*, whose sign tells its class, on a large *body*, whose texture it shares
with other classes: seven times in ten it is the class's usual one, else any. A classifier that
looks for what tells classes apart looks at heads; a seed for segmentation needs the whole object.
No public data set has masks of both, so only here can coverage be measured part by part.

All arithmetic is on integers (and uniform random numbers), so the pixels are the same everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from ribkit.data.images import ImageSet, hash_arrays

CLASSES = ("cross", "ring", "square", "saltire", "bars", "corner", "wedge", "tee")
TEXTURES = ("stripes", "checks", "dots", "bricks")
SIZE = 64
HEAD_RADIUS = 6
USUAL_TEXTURE = 0.7  # how often a body has its class's usual texture; else it has any


@dataclass(frozen=True)
class Scene:
    """One scene of ``S`` pixels a side; masks are class + 1, else 0."""

    image: np.ndarray  # (S, S, 3) uint8
    mask: np.ndarray  # (S, S) uint8: objects
    heads: np.ndarray  # (S, S) uint8: their discriminative parts
    attributes: np.ndarray  # (8 + 4,) bool: heads and textures present, what the pretext task asks


@dataclass(frozen=True)
class Scenes:
    """The Source of the scenes that ``rng_seed`` decides, ``size`` pixels wide and high."""

    rng_seed: int
    size: int
    usual_texture: float

    def _scene(self, id: str) -> Scene:
        return draw(self.rng_seed, int(id), self.size, self.usual_texture)

    def image(self, id: str) -> np.ndarray:
        return self._scene(id).image

    def mask(self, id: str) -> np.ndarray:
        return self._scene(id).mask

    def heads(self, id: str) -> np.ndarray:
        return self._scene(id).heads

    def fingerprint(self, ids: Sequence[str]) -> str:
        """SHA-256 (hex) of images and masks."""
        scenes = map(self._scene, ids)
        return hash_arrays(a for scene in scenes for a in (scene.image, scene.mask, scene.heads))


@dataclass(frozen=True)
class Pretext:
    """The first ``count`` scenes of ``rng_seed`` with their attributes, drawn when asked for."""

    rng_seed: int
    count: int

    def fingerprint(self) -> list[int]:
        """What decides the scenes, beside the code."""
        return [self.rng_seed, self.count]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Images ``(N, S, S, 3)`` uint8 and attributes ``(N, 12)`` bool."""
        drawn = [draw(self.rng_seed, index, SIZE) for index in range(self.count)]
        return np.stack([s.image for s in drawn]), np.stack([s.attributes for s in drawn])


def generate(
    rng_seed: int, count: int, size: int = SIZE, usual_texture: float = USUAL_TEXTURE
) -> ImageSet:
    """``count`` scenes of ``rng_seed``; objects fit into 48 pixels or more.

    usual_texture: how much bodies tell of their class. 0: nothing; 1: which two of the eight it is.
    """
    source = Scenes(rng_seed, size, usual_texture)
    ids = tuple(str(i) for i in range(count))
    values = np.arange(1, len(CLASSES) + 1)
    labels = np.array([np.isin(values, source.mask(id)) for id in ids], bool)
    return ImageSet(ids, CLASSES, labels.reshape(count, len(CLASSES)), source)


@lru_cache(maxsize=4096)
def draw(rng_seed: int, index: int, size: int, usual_texture: float = USUAL_TEXTURE) -> Scene:
    """Scene ``index`` of ``rng_seed``: one to three objects of different classes, side by side."""
    random = np.random.default_rng([rng_seed, index])
    image = _background(random, size)
    mask = np.zeros((size, size), dtype=np.uint8)
    heads = np.zeros_like(mask)
    attributes = np.zeros(len(CLASSES) + len(TEXTURES), dtype=bool)
    for label in random.permutation(len(CLASSES))[: random.choice([1, 1, 2, 2, 3])]:
        for _ in range(20):
            body, centre, radii = _body(random, size)
            head = _head(random, centre, radii, size)
            if (mask[body | head] == 0).all():
                break
        else:
            continue
        usual = random.random() < usual_texture
        texture = label // 2 if usual else random.integers(len(TEXTURES))
        _paint(random, image, body, _texture(random, texture, size))
        _paint(random, image, head, _sign(random, label, head, size))
        mask[body | head] = label + 1
        heads[head] = label + 1
        attributes[[label, len(CLASSES) + texture]] = True
    noise = random.integers(-14, 15, size=image.shape, dtype=np.int32)
    return Scene(np.clip(image + noise, 0, 255).astype(np.uint8), mask, heads, attributes)


@cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.mgrid[:size, :size].astype(np.int32))


def _background(random: np.random.Generator, size: int) -> np.ndarray:
    """Smooth patches of colour at two scales: random grids, linearly interpolated in integers."""
    total = np.zeros((size, size, 3), dtype=np.int32)
    for cell, weight in ((16, 3), (8, 1)):
        grid = random.integers(
            30, 226, size=(size // cell + 2, size // cell + 2, 3), dtype=np.int32
        )
        rows, columns = _grid(size)
        r, c, fr, fc = rows // cell, columns // cell, rows % cell, columns % cell
        fr, fc = fr[..., None], fc[..., None]
        top = grid[r, c] * (cell - fc) + grid[r, c + 1] * fc
        bottom = grid[r + 1, c] * (cell - fc) + grid[r + 1, c + 1] * fc
        total += weight * (top * (cell - fr) + bottom * fr) // cell**2
    return total // 4


def _body(random: np.random.Generator, size: int) -> tuple[np.ndarray, tuple, tuple]:
    """An ellipse, a box or a diamond somewhere in the scene: its mask, centre and radii."""
    radii = (int(random.integers(9, 14)), int(random.integers(11, 16)))
    if random.random() < 0.5:
        radii = radii[::-1]
    centre = tuple(int(random.integers(r + 1, size - r - 1)) for r in radii)
    rows, columns = _grid(size)
    dy, dx = np.abs(rows - centre[0]), np.abs(columns - centre[1])
    ry, rx = radii
    inside = (
        (dy * rx) ** 2 + (dx * ry) ** 2 <= (ry * rx) ** 2,
        (10 * dy <= 9 * ry) & (10 * dx <= 9 * rx),
        10 * (dy * rx + dx * ry) <= 13 * ry * rx,
    )[random.integers(3)]
    return inside & (dy <= ry) & (dx <= rx), centre, radii


def _head(random: np.random.Generator, centre: tuple, radii: tuple, size: int) -> np.ndarray:
    """A disc on the rim of the body, at the end of an axis, kept inside the picture."""
    axis = int(np.argmax(radii))
    place = list(centre)
    place[axis] += int(random.choice([-1, 1])) * (radii[axis] - 3)
    place = [min(max(p, HEAD_RADIUS), size - 1 - HEAD_RADIUS) for p in place]
    rows, columns = _grid(size)
    return (rows - place[0]) ** 2 + (columns - place[1]) ** 2 <= HEAD_RADIUS**2


def _paint(
    random: np.random.Generator, image: np.ndarray, where: np.ndarray, pattern: np.ndarray
) -> None:
    """A pattern of a dark and a light colour, in either order: colour itself tells nothing."""
    pair = [random.integers(10, 90, size=3), random.integers(165, 246, size=3)]
    on, off = pair if random.random() < 0.5 else pair[::-1]
    image[where & pattern] = on
    image[where & ~pattern] = off


def _texture(random: np.random.Generator, kind: int, size: int) -> np.ndarray:
    """A texture of the body, at a random phase: ``(size, size)`` bool."""
    rows, columns = _grid(size)
    rows, columns = rows + random.integers(8), columns + random.integers(8)
    if kind == 0:  # diagonal stripes, either way
        sign = int(random.choice([-1, 1]))
        return (rows + sign * columns) // 3 % 2 == 0
    if kind == 1:
        return (rows // 4 + columns // 4) % 2 == 0
    if kind == 2:
        return (rows % 6 - 2) ** 2 + (columns % 6 - 2) ** 2 <= 3
    return (rows % 5 == 0) | ((columns + 4 * (rows // 5 % 2)) % 8 == 0)


def _sign(random: np.random.Generator, label: int, head: np.ndarray, size: int) -> np.ndarray:
    """The sign on a head, in one of four orientations: ``(size, size)`` bool."""
    rows, columns = _grid(size)
    where = np.argwhere(head)
    middle = (where.min(axis=0) + where.max(axis=0)) // 2
    y, x = rows - middle[0], columns - middle[1]
    for _ in range(random.integers(4)):
        y, x = x, -y
    r2 = y**2 + x**2
    return (
        (np.abs(y) <= 1) | (np.abs(x) <= 1),
        (r2 >= 6) & (r2 <= 18),
        (np.abs(y) <= 3) & (np.abs(x) <= 3),
        (np.abs(y - x) <= 1) | (np.abs(y + x) <= 1),
        np.abs(y) % 4 >= 2,
        ((y >= 1) & (x >= -3)) | ((x <= -1) & (y >= -3)),
        (y >= 0) & (np.abs(x) <= y),
        ((np.abs(y + 3) <= 1) | (np.abs(x) <= 1)) & (y >= -4),
    )[label]
