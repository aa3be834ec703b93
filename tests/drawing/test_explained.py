"""Checks that the figures that explain the method show the numbers that the test passes to them."""

import numpy as np
import pytest

from reversion_jax.drawing import explained, plots


@pytest.fixture(autouse=True)
def figures(monkeypatch):
    """Makes the functions of `explained` return matplotlib figures in place of rendered pictures."""
    monkeypatch.setattr(plots, "as_image", lambda figure: figure)


def test_curves_show_their_lines_dots_and_marks():
    figure = explained.curves({"a": ([0, 1], [2, 3])}, {"a": ([0.5], [2.5])}, x="x", y="y", marks={"here": 0.25})
    (axes,) = figure.axes
    line, dots, mark = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[0, 2], [1, 3]])
    np.testing.assert_array_equal(dots.get_xydata(), [[0.5, 2.5]])
    assert dots.get_color() == line.get_color()
    assert list(mark.get_xdata()) == [0.25, 0.25]
    assert axes.get_ylim()[0] == 0


def test_spectra_place_a_wave_at_its_frequency():
    """The wave has 1/4 cycle per pixel along x and 1/8 cycle per pixel along y.

    The spectrum of 32 pixels has steps of 1/32 cycle per pixel.
    """
    y, x = np.mgrid[:32, :32]
    wave = np.cos(2 * np.pi * (x / 4 + y / 8))[None, :, :, None]
    figure = explained.spectra({"wave": wave, "half": wave / 2})
    power, half = (axes.images[0].get_array() for axes in figure.axes[:2])
    peaks = np.argwhere(power > power.max() - 1e-6) - 16
    np.testing.assert_array_equal(peaks, [[-4, -8], [4, 8]])
    assert power.max() - half.max() == pytest.approx(np.log10(4), abs=1e-4)
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    assert (right - left, top - bottom) == (1, 1)
    assert left + (power.argmax() % 32 + 0.5) / 32 == pytest.approx(-0.25)


def test_the_circle_figure_shows_directions_of_vectors_without_their_lengths():
    path = np.array([[0.0, 3.0], [-0.5, 0.0]])
    figure = explained.circle(np.eye(2), -np.eye(2), path, (np.arange(361), np.arange(361) / 10))
    plane, landscape = figure.axes
    (line,) = (line for line in plane.lines if line.get_label() == "<R> as it is learned")
    np.testing.assert_allclose(line.get_xydata(), [[0, 0.8], [-0.8, 0]], atol=1e-7)
    np.testing.assert_allclose(landscape.lines[1].get_xydata(), [[90, 9], [180, 18]], atol=1e-4)
    places = [line.get_xdata()[0] for line in landscape.lines[2:]]
    np.testing.assert_allclose(places, [0, 90, 180, 270], atol=1e-4)


def test_bars_have_the_heights_and_labels_of_their_shares():
    figure = explained.bars({"before": {"a": 0.25, "b": 0.5}, "after": {"a": 1.0, "b": 0.0}}, title="t")
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [0.25, 0.5, 1.0, 0.0]
    assert [text.get_text() for text in axes.texts] == ["25%", "50%", "100%", "0%"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
