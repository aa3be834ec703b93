"""The high-frequency suppressor H of Inv-ReVersion (§3.4, Eq. 8 and 9): a Gaussian low-pass filter, computed by FFT."""

import jax
import jax.numpy as jnp

_TRUNCATE = 4.0  # the kernel ends at ±4σ, as in scipy
_WRAPS = 64  # the kernel reaches at most this number of periods to either side, see `gaussian_blur`


def gaussian_blur(images: jax.Array, sigma: jax.Array | float) -> jax.Array:
    """Blurs images [N, H, W, C] along H and W with a Gaussian of sigma pixels. Sigma 0 returns the images exactly.

    For images in [-1, 1] of any size, the result equals scipy.ndimage.gaussian_filter(mode="mirror", truncate=4) to
    1e-5. Sigma is a scalar and may be traced. Sigma is limited to 32 image lengths, where the blur equals the image's
    mean to 1e-5. Computes in float32 and returns the images' dtype.
    """
    sigma = jnp.asarray(sigma, jnp.float32)
    blurred = images.astype(jnp.float32)
    for axis in (1, 2):
        blurred = _blur_axis(blurred, sigma, axis)
    return jnp.where(sigma > 0, blurred.astype(images.dtype), images)


def _blur_axis(images: jax.Array, sigma: jax.Array, axis: int) -> jax.Array:
    """Blurs images float32 [N, H, W, C] along one axis with a Gaussian of `sigma` pixels, a scalar."""
    # A line followed by its mirror image, without repeated edges, is one period of the mirror extension. The filter,
    # borders included, is the circular convolution of this period with the kernel, which is wrapped to the same period.
    size = images.shape[axis]
    mirrored = jnp.flip(jax.lax.slice_in_dim(images, 1, max(size - 1, 1), axis=axis), axis)
    period = jnp.concatenate([images, mirrored], axis)
    spectrum = jnp.fft.rfft(_wrapped_kernel(period.shape[axis], sigma)).real
    spectrum = spectrum.reshape([-1 if i == axis else 1 for i in range(images.ndim)])
    blurred = jnp.fft.irfft(jnp.fft.rfft(period, axis=axis) * spectrum, n=period.shape[axis], axis=axis)
    return jax.lax.slice_in_dim(blurred, 0, size, axis=axis)


def _wrapped_kernel(period: int, sigma: jax.Array) -> jax.Array:
    """Returns the truncated, normalised Gaussian as a periodic kernel float32 [period], with its centre at index 0."""
    reach = _WRAPS * period
    sigma = jnp.minimum(sigma, (reach - 1) / _TRUNCATE)
    offsets = jnp.arange(-reach, reach, dtype=jnp.float32)
    radius = jnp.floor(_TRUNCATE * sigma + 0.5)
    weights = jnp.exp(-0.5 * jnp.square(offsets / jnp.maximum(sigma, 1e-6)))
    weights = jnp.where(jnp.abs(offsets) <= radius, weights, 0.0)
    return weights.reshape(-1, period).sum(axis=0) / weights.sum()
