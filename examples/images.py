"""Blur images on many workers: arrays go in and come back; needs NumPy.

python examples/images.py
"""

import numpy as np

from starburst_executor import StarburstExecutor

SIZE, IMAGES = 256, 12


def noise(seed: int) -> np.ndarray:
    """Return an image in grey: a bright square in noise."""
    image = np.random.default_rng(seed).normal(0.0, 0.3, (SIZE, SIZE))
    image[64:192, 64:192] += 1.0
    return image


def blurred(image: np.ndarray, radius: int = 4) -> np.ndarray:
    """Return the mean over a square around each pixel."""
    width = 2 * radius + 1
    padded = np.pad(image, radius, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, (width, width)).mean(axis=(2, 3))


with StarburstExecutor(workers=2) as ex:
    images = [noise(seed) for seed in range(IMAGES)]
    for number, after in enumerate(ex.map(blurred, images, buffersize=4)):
        if number % 4 == 0:
            before = images[number]
            print(f"image {number}: noise {before[:48, :48].std():.2f} before, {after[:48, :48].std():.2f} after")
print(IMAGES, "images of", SIZE, "x", SIZE)
