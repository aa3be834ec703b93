import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from reversion_jax.inversion.suppressor import gaussian_blur

blur = jax.jit(gaussian_blur)  # sigma is traced, so one compiled program serves all sigmas

SIZES = [(16, 16), (17, 17), (33, 12), (8, 41), (2, 3), (1, 9), (1, 1)]
SIGMAS = [0.1, 0.375, 1.0, 2.0, 3.7, 20.0, 300.0, 3000.0]


def _scipy(images, sigma):
    return ndimage.gaussian_filter(images.astype(np.float64), (0, sigma, sigma, 0), mode="mirror", truncate=4)


def _images(size, kind):
    height, width = size
    if kind == "noise":
        return np.random.default_rng(0).uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    ys, xs = np.mgrid[:height, :width]
    half = np.where((2 * ys < height) == (2 * xs < width), -1, 1)  # four squares: low frequencies, full contrast
    return np.tile(half[None, :, :, None], (2, 1, 1, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["noise", "half"])
@pytest.mark.parametrize("size", SIZES)
def test_filtered_pictures_equal_those_of_scipy_including_borders(size, kind):
    images = _images(size, kind)
    for sigma in SIGMAS:
        np.testing.assert_allclose(blur(images, sigma), _scipy(images, sigma), rtol=0, atol=1e-5)


def test_filtered_pictures_equal_those_of_scipy_at_512_pixels_and_the_default_sigma():
    images = _images((512, 512), "noise")[:1]
    np.testing.assert_allclose(blur(images, 2.0), _scipy(images, 2.0), rtol=0, atol=2e-6)


def test_sigma_zero_changes_no_bit():
    images = _images((16, 12), "noise")
    np.testing.assert_array_equal(blur(images, 0), images)


def test_runs_may_have_different_sigmas():
    sigmas = np.float32([0, 0.5, 3])
    images = np.stack([_images((10, 14), "noise")] * 3)
    together = jax.vmap(blur)(images, sigmas)
    np.testing.assert_array_equal(together[0], images[0])
    for own, image, sigma in zip(together, images, sigmas, strict=True):
        np.testing.assert_allclose(own, _scipy(image, float(sigma)), rtol=0, atol=1e-5)


def test_the_filter_mixes_neither_images_nor_channels_and_keeps_the_dtype():
    images = np.zeros((2, 9, 9, 2), np.float32)
    images[1, 4, 4, 1] = 1
    blurred = blur(images, 0.8)  # the filter has a radius of 3 pixels, so it reaches no border
    assert np.abs(blurred[0]).max() < 1e-7
    assert np.abs(blurred[1, ..., 0]).max() < 1e-7
    np.testing.assert_allclose(np.sum(blurred), 1, atol=1e-5)
    assert jax.eval_shape(gaussian_blur, images.astype(jnp.bfloat16), 1.5).dtype == jnp.bfloat16
