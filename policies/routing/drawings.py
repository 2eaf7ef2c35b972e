"""Images that are not medical scans, drawn from a seed: noise, textures, drawings, plots and pages of text.

`TRAINED` are the kinds that the router that ships was trained on, `HELD_OUT` the kinds that it never saw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Drawing = NDArray[np.uint8]
SIZE = 256
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _stretched(values: NDArray[Any]) -> Drawing:
    low, high = values.min(), values.max()
    return np.asarray(255 * (values - low) / max(high - low, 1e-9)).astype(np.uint8)


def _canvas(rng: np.random.Generator) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """Returns an empty image, its pen, and a grey value that is visible on it."""
    paper = int(rng.choice(np.array([0, 255, int(rng.integers(256))])))
    image = Image.new("L", (SIZE, SIZE), paper)
    return image, ImageDraw.Draw(image), paper + 128 - 256 * (paper >= 128)


def _points(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in rng.uniform(0, SIZE, (count, 2))]


def uniform_noise(rng: np.random.Generator) -> Drawing:
    """Independent, uniform grey values."""
    return rng.integers(0, 256, (SIZE, SIZE), np.uint8)


def blank(rng: np.random.Generator) -> Drawing:
    """One grey value, with or without faint noise."""
    values = rng.integers(256) + rng.normal(0, float(rng.choice([0.0, 3.0])), (SIZE, SIZE))
    return np.clip(values, 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator) -> Drawing:
    """Smoothed noise."""
    from scipy import ndimage

    return _stretched(ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), float(rng.uniform(1, 25))))


def power_law(rng: np.random.Generator) -> Drawing:
    """Noise whose spectrum falls with a power of the frequency, as that of photographs does."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(rng.standard_normal((SIZE, SIZE))) / frequency ** rng.uniform(0.6, 1.6)
    return _stretched(np.real(np.fft.ifft2(spectrum)))


def dead_leaves(rng: np.random.Generator) -> Drawing:
    """Shapes in front of each other, a model of photographs: edges, textures and shadows at all scales."""
    image = Image.new("L", (SIZE, SIZE), int(rng.integers(256)))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(40, 400))):
        radius = 3 * rng.pareto(1.5) + 3
        x, y = rng.uniform(-20, SIZE + 20, 2)
        box = (x - radius, y - radius * rng.uniform(0.5, 1.0), x + radius, y + radius * rng.uniform(0.5, 1.0))
        box = (*np.minimum(box[:2], box[2:]).tolist(), *np.maximum(box[:2], box[2:]).tolist())
        (pen.ellipse if rng.random() < 0.6 else pen.rectangle)(box, fill=int(rng.integers(256)))
    shaded = np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 2)))), float)
    ramp = np.linspace(-1, 1, SIZE)
    shaded = shaded * (1 + 0.4 * rng.uniform(-1, 1) * ramp[:, None] + 0.4 * rng.uniform(-1, 1) * ramp)
    texture = power_law(rng).astype(float) - 128
    return _stretched(shaded + float(rng.uniform(0, 0.8)) * texture)


def polygons(rng: np.random.Generator) -> Drawing:
    """Filled polygons and ellipses."""
    image, pen, _ = _canvas(rng)
    for _ in range(int(rng.integers(2, 12))):
        pen.polygon(_points(rng, int(rng.integers(3, 7))), fill=int(rng.integers(256)))
    return np.asarray(image)


def line_drawing(rng: np.random.Generator) -> Drawing:
    """Straight and broken lines."""
    image, pen, ink = _canvas(rng)
    for _ in range(int(rng.integers(2, 25))):
        pen.line(_points(rng, int(rng.integers(2, 7))), fill=ink, width=int(rng.integers(1, 7)))
    return np.asarray(image)


def text_page(rng: np.random.Generator) -> Drawing:
    """Lines of random words."""
    image, pen, ink = _canvas(rng)
    font = ImageFont.load_default(float(rng.uniform(9, 26)))
    for top in np.arange(4, SIZE, float(rng.uniform(12, 34))):
        words = ["".join(rng.choice(list(_LETTERS), int(rng.integers(2, 10)))) for _ in range(9)]
        pen.text((6, float(top)), " ".join(words), fill=ink, font=font)
    return np.asarray(image)


def pattern(rng: np.random.Generator) -> Drawing:
    """Stripes and chequers."""
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 60)
    waves = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    if rng.random() < 0.5:
        waves = waves * np.sin(2 * np.pi * (y * np.cos(angle) - x * np.sin(angle)) / period)
    return _stretched(np.sign(waves) if rng.random() < 0.5 else waves)


def scatter_plot(rng: np.random.Generator) -> Drawing:
    """Axes and points."""
    image, pen, ink = _canvas(rng)
    pen.line([(30, 10), (30, 226), (246, 226)], fill=ink, width=2)
    for x, y in rng.normal(130, 45, (int(rng.integers(20, 200)), 2)):
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=ink)
    return np.asarray(image)


def cells(rng: np.random.Generator) -> Drawing:
    """A Voronoi diagram: facets, such as a mosaic."""
    from scipy.spatial import cKDTree

    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    count = int(rng.integers(8, 120))
    _, owner = cKDTree(rng.uniform(0, SIZE, (count, 2))).query(np.stack([x, y], -1).reshape(-1, 2))
    return rng.integers(0, 256, count, np.uint8)[owner].reshape(SIZE, SIZE)


def landscape(rng: np.random.Generator) -> Drawing:
    """Sky, a horizon of hills, and a textured ground, a model of outdoor photographs."""
    x = np.arange(SIZE)
    heights = sum(rng.uniform(2, 25) * np.sin(2 * np.pi * x * k / SIZE + rng.uniform(0, 7)) for k in (1, 2, 3, 7))
    horizon = rng.uniform(70, 190) + np.asarray(heights)
    y = np.arange(SIZE)[:, None]
    sky = rng.uniform(120, 255) - rng.uniform(0, 0.5) * y + 0.1 * clouds(rng)
    ground = rng.uniform(20, 140) + rng.uniform(0.2, 0.8) * (power_law(rng).astype(float) - 128)
    return np.clip(np.where(y < horizon, sky, ground), 0, 255).astype(np.uint8)


def portrait(rng: np.random.Generator) -> Drawing:
    """A shaded, textured body in front of a background, a model of photographs of objects."""
    from scipy import ndimage

    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    angle = np.arctan2(y, x)
    outline = 0.25 + 0.1 * rng.uniform(-1, 1) * np.cos(angle * 2) + 0.06 * rng.uniform(-1, 1) * np.cos(angle * 5 + 1)
    inside = ndimage.gaussian_filter((np.hypot(x - rng.uniform(-0.15, 0.15), y) < outline).astype(float), 1)
    body = rng.uniform(40, 220) + 150 * rng.uniform(-1, 1) * x + 150 * rng.uniform(-1, 1) * y
    texture = rng.uniform(0.1, 0.6) * (power_law(rng).astype(float) - 128)
    background = rng.uniform(0, 255) + 0.5 * rng.uniform(0, 1) * (dead_leaves(rng).astype(float) - 128)
    return np.clip(inside * (body + texture) + (1 - inside) * background, 0, 255).astype(np.uint8)


def fractal(rng: np.random.Generator) -> Drawing:
    """A Julia set."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE * 3 - 1.5
    z = x + 1j * y
    constant = complex(rng.uniform(-1, 0.4), rng.uniform(-0.8, 0.8))
    escaped = np.zeros(z.shape)
    for step in range(30):
        z = np.where(np.abs(z) < 4, z * z + constant, z)
        escaped[(np.abs(z) >= 4) & (escaped == 0)] = step + 1
    return _stretched(escaped)


def face(rng: np.random.Generator) -> Drawing:
    """A drawn face."""
    image, pen, ink = _canvas(rng)
    width = int(rng.integers(2, 6))
    left, top = rng.uniform(15, 50, 2)
    right, bottom = SIZE - rng.uniform(15, 50), SIZE - rng.uniform(15, 50)
    pen.ellipse((left, top, right, bottom), outline=ink, width=width)
    middle, eyes = (left + right) / 2, top + (bottom - top) * 0.38
    for x in (middle - 35, middle + 35):
        pen.ellipse((x - 9, eyes - 9, x + 9, eyes + 9), fill=ink)
    pen.arc((middle - 45, eyes + 20, middle + 45, eyes + 80), 20, 160, fill=ink, width=width)
    return np.asarray(image)


def bar_chart(rng: np.random.Generator) -> Drawing:
    """A chart with bars and a title."""
    image, pen, ink = _canvas(rng)
    count = int(rng.integers(3, 12))
    for number, height in enumerate(rng.uniform(10, 200, count)):
        left = 25 + number * 220 / count
        pen.rectangle((left, 236 - height, left + 160 / count, 236), fill=ink)
    pen.line([(20, 20), (20, 236), (250, 236)], fill=ink, width=2)
    pen.text((80, 4), "results", fill=ink, font=ImageFont.load_default(14))
    return np.asarray(image)


def maze(rng: np.random.Generator) -> Drawing:
    """A maze of random walls."""
    count = int(rng.integers(8, 28))
    walls = np.kron(rng.integers(0, 2, (count, count)), np.ones((SIZE // count + 1,) * 2))[:SIZE, :SIZE]
    return _stretched(walls if rng.random() < 0.5 else 1 - walls)


def spiral(rng: np.random.Generator) -> Drawing:
    """A spiral with rays."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    turns = rng.uniform(2, 12) * np.hypot(x, y) * 2 * np.pi + rng.integers(1, 6) * np.arctan2(y, x)
    return _stretched(np.sin(turns))


def signature(rng: np.random.Generator) -> Drawing:
    """Curved strokes, such as handwriting."""
    image, pen, ink = _canvas(rng)
    for line in range(int(rng.integers(1, 6))):
        t = np.linspace(0, 1, 300)
        x = 15 + 225 * t + 12 * np.sin(2 * np.pi * rng.uniform(6, 14) * t)
        y = 40 + 40 * line + 14 * np.sin(2 * np.pi * rng.uniform(8, 18) * t + 1) * rng.uniform(0.4, 1.2)
        pen.line([(float(a), float(b)) for a, b in zip(x, y, strict=True)], fill=ink, width=int(rng.integers(1, 4)))
    return np.asarray(image)


TRAINED: dict[str, Callable[[np.random.Generator], Drawing]] = {
    drawn.__name__: drawn
    for drawn in (
        uniform_noise, blank, clouds, power_law, dead_leaves, polygons, line_drawing, text_page, pattern, scatter_plot,
        cells, landscape, portrait,
    )
}  # fmt: skip
HELD_OUT: dict[str, Callable[[np.random.Generator], Drawing]] = {
    drawn.__name__: drawn for drawn in (fractal, face, bar_chart, maze, spiral, signature)
}
