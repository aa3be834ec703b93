import io
import json
import os
import warnings

import numpy as np
import pytest
from PIL import Image
from places import SHARED

from reversion_jax.data import exemplars
from reversion_jax.inversion import prompts
from reversion_jax.runtime.errors import Caution

EXEMPLARS = SHARED / "exemplars"
TEMPLATES = [
    ["cat {} stone", "a photo of cat {} stone"],
    [{"text": "{subject} {} {object}", "subject": "a", "object": "b"}],
]


def _pictures(count=2, height=12, width=12):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def _folder(path, captions, **pictures):
    path.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(path / f"{name}.png")
    (path / "text.json").write_text(captions if isinstance(captions, str) else json.dumps(captions))
    return path


def test_a_written_folder_is_read_back_unchanged(tmp_path):
    images = _pictures()
    exemplars.write_folder(tmp_path / "new" / "hug", images, TEMPLATES)
    read = exemplars.read_folder(tmp_path / "new" / "hug", 12, invertible=True)
    assert read.images.dtype == np.float32
    np.testing.assert_array_equal(np.rint((read.images + 1) * 127.5), images)
    assert read.images.min() >= -1
    assert read.images.max() <= 1
    assert read.templates == tuple(tuple(map(prompts.parse, own)) for own in TEMPLATES)
    assert read.names == ("0.png", "1.png")
    assert [child.name for child in (tmp_path / "new").iterdir()] == ["hug"]
    with pytest.raises(FileExistsError, match="hug"):
        exemplars.write_folder(tmp_path / "new" / "hug", images, TEMPLATES)


def test_a_failed_write_of_exemplars_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        exemplars.write_folder(tmp_path / "hug", _pictures(), [["cat {} stone"], [object()]])
    assert list(tmp_path.iterdir()) == []
    for images, templates in [
        (_pictures().astype(np.float32), TEMPLATES),
        (_pictures()[..., :1], TEMPLATES),
        (_pictures(), TEMPLATES[:1]),
        (_pictures(), [["cat {} stone"], []]),
        (_pictures()[:0], []),
    ]:
        with pytest.raises(ValueError, match=r"give one or more|must be uint8"):
            exemplars.write_folder(tmp_path / "hug", images, templates)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("height", "width"), [(20, 31), (5, 9)])
def test_the_whole_picture_is_resized_bicubically(tmp_path, height, width):
    picture = _pictures(1, height, width)[0]
    folder = _folder(tmp_path, {"0.png": ["cat {} stone"]}, **{"0": picture})
    read = exemplars.read_folder(folder, 16)
    expected = np.asarray(Image.fromarray(picture).resize((16, 16), Image.BICUBIC), np.float64) / 127.5 - 1
    assert read.images.shape == (1, 16, 16, 3)
    np.testing.assert_allclose(read.images[0], expected, atol=1e-6)


def test_exemplars_have_the_order_of_text_json(tmp_path):
    one, two = _pictures()
    folder = _folder(tmp_path, {"b.png": ["cat {} stone"], "a.png": ["dog {} clay"]}, a=one, b=two)
    read = exemplars.read_folder(folder, 12)
    assert read.names == ("b.png", "a.png")
    assert read.templates == ((prompts.parse("cat {} stone"),), (prompts.parse("dog {} clay"),))
    np.testing.assert_array_equal(np.rint((read.images + 1) * 127.5), [two, one])


def test_rotated_transparent_grey_and_palette_pictures_are_read(tmp_path):
    folder = _folder(tmp_path, {name: ["cat {} stone"] for name in ("a.jpg", "b.png", "c.png", "d.png")})
    halves = Image.new("RGB", (16, 16), "black")
    halves.paste("white", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°: the stored top is shown on the right
    halves.save(folder / "a.jpg", exif=exif, quality=100)
    glass = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    glass.paste((0, 0, 255, 51), (8, 0, 16, 16))
    glass.save(folder / "b.png")
    Image.new("L", (16, 16), 51).save(folder / "c.png")
    indexed = Image.new("P", (16, 16), 1)
    indexed.putpalette([0, 0, 0, 255, 0, 0])
    indexed.save(folder / "d.png", transparency=1)
    turned, on_white, grey, palette = exemplars.read_folder(folder, 16).images
    np.testing.assert_allclose(turned[:, [0, 15]], np.stack([-np.ones((16, 3)), np.ones((16, 3))], 1), atol=0.02)
    np.testing.assert_allclose(on_white[8, 2], [1, 1, 1])
    np.testing.assert_allclose(on_white[8, 13], np.array([204, 204, 255]) / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(grey, 51 / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(palette, 1)


CAPTION_FAULTS = [
    ("{", ValueError, "text.json: not readable as JSON"),
    ("[]", ValueError, "at least one picture"),
    ("{}", ValueError, "at least one picture"),
    ('{"0.png": ["cat {} dog"], "0.png": ["cat {} stone"]}', ValueError, "is repeated"),
    ({"0\n.png": None}, ValueError, r"the name '0\\n.png' has a line break"),
    ({"0.png": []}, ValueError, "0.png: must be a list of one or more templates"),
    ({"0.png": "cat {} stone"}, ValueError, "0.png: must be a list of one or more templates"),
    ({"0.png": ["cat {} stone", 7]}, ValueError, r"text.json, 0.png\[1\]: template 7 must be a string"),
    ({"0.png": ["cat {} stone", "cat stone"]}, ValueError, r"text.json, 0.png\[1\]: 0 {} in 'cat stone'"),
    ({"0.png": ["cat {} stone at sea"]}, ValueError, r"text.json, 0.png\[0\]: object 'stone at sea'"),
    ({"0.png": ["cat {} stone"], "1.png": ["cat {} stone"]}, FileNotFoundError, "1.png: missing"),
    ({"../0.png": ["cat {} stone"]}, ValueError, "without a path"),
]


@pytest.mark.parametrize(("captions", "error", "message"), CAPTION_FAULTS)
def test_an_error_about_captions_names_the_place(tmp_path, captions, error, message):
    folder = _folder(tmp_path, captions, **{"0": _pictures(1)[0]})
    with pytest.raises(error, match=message) as caught:
        exemplars.read_folder(folder, 12, invertible=True)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_inverse_prompts_only_malformed_templates_are_refused(tmp_path):
    folder = _folder(tmp_path, {"0.png": ["cat {} stone at sea"]}, **{"0": _pictures(1)[0]})
    ((template,),) = exemplars.read_folder(folder, 12).templates
    assert template.direct() == "cat <R> stone at sea"
    (folder / "text.json").write_text(json.dumps({"0.png": ["cat {} stone", "cat stone"]}))
    with pytest.raises(ValueError, match=r"text.json, 0.png\[1\]: 0 {} in 'cat stone'"):
        exemplars.read_folder(folder, 12)


def test_names_that_differ_in_case_or_unicode_form_are_found(tmp_path):
    """Cameras write .JPG in capitals, and Unicode has two forms of an accented letter."""
    folder = _folder(tmp_path, {"0.png": ["cat {} stone"], "caf\u00e9.png": ["cat {} tree"]}, **{"0": _pictures(1)[0]})
    (folder / "0.png").rename(folder / "0.PNG")
    Image.fromarray(_pictures(1)[0]).save(folder / "cafe\u0301.png")
    assert exemplars.read_folder(folder, 12).names == ("0.PNG", "cafe\u0301.png")
    (folder / "text.json").write_text(json.dumps({"0.png": ["cat {} stone"], "0.PNG": ["cat {} stone"]}))
    with pytest.raises(ValueError, match="two names mean the same file"):
        exemplars.read_folder(folder, 12)
    (folder / "text.json").write_text(json.dumps({"00.png": ["cat {} stone"]}))
    with pytest.raises(FileNotFoundError, match=r"00\.png: missing, although text\.json names it; did you mean 0\.PNG"):
        exemplars.read_folder(folder, 12)


@pytest.mark.parametrize("suffix", ["gif", "heic", "tiff", "avif"])
def test_a_picture_that_text_json_does_not_name_causes_a_warning(tmp_path, suffix):
    folder = _folder(tmp_path, {"0.png": ["cat {} stone"]}, **{"0": _pictures(1)[0]})
    (folder / f"1.{suffix}").write_bytes(b"")
    with pytest.warns(Caution, match=rf"left out, because text\.json does not name them: 1\.{suffix}"):
        exemplars.read_folder(folder, 12)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_in_place_of_a_picture_is_refused(tmp_path):
    folder = _folder(tmp_path, {"0.png": ["cat {} stone"]}, **{"0": _pictures(1)[0]})
    (folder / "0.png").unlink()
    os.mkfifo(folder / "0.png")
    with pytest.raises(ValueError, match=r"0\.png: not a regular file, but a folder, a pipe or a device"):
        exemplars.read_folder(folder, 12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0.png": ["cat {} \\ud800 stone"]}', r"0\.png\[0\]: .* contains half a character"),
        ('{"0.png": [{"text": "{subject} {} {object}", "subject": "\\udfff", "object": "b"}]}', "half a character"),
        ('{"0.png": ' + "[" * 200_000 + "]" * 200_000 + "}", r"text\.json: .* nested too deeply"),
    ],
    ids=["string", "explicit", "deep"],
)
def test_captions_with_lone_surrogates_or_deeply_nested_lists_are_refused(tmp_path, text, message):
    folder = _folder(tmp_path, {"0.png": ["cat {} stone"]}, **{"0": _pictures(1)[0]})
    (folder / "text.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        exemplars.read_folder(folder, 12)
    assert "\n" not in str(error.value)


def test_pictures_that_get_distorted_cause_a_warning_and_can_be_cropped_or_padded(tmp_path):
    wide = np.zeros((10, 60, 3), np.uint8)
    wide[:, 25:35] = 255
    folder = _folder(tmp_path, {"0.png": ["cat {} stone"]}, **{"0": wide})
    with pytest.warns(Caution, match=r"0\.png is 60 x 10 px and is squashed to 12 x 12 px: .* to 'crop' or 'pad'"):
        (squashed,) = exemplars.read_folder(folder, 12).images
    with pytest.warns(Caution, match="is cropped to 12 x 12"):
        (cropped,) = exemplars.read_folder(folder, 12, resize="crop").images
    (padded,) = exemplars.read_folder(folder, 12, resize="pad").images
    assert squashed.shape == cropped.shape == padded.shape == (12, 12, 3)
    assert squashed[6, 0].max() == -1
    assert squashed[6, 6].min() > 0.5
    np.testing.assert_allclose(cropped, 1, atol=0.2)  # the middle of the picture is white
    np.testing.assert_allclose(padded[:4], 1)
    np.testing.assert_allclose(padded[6, 0], -1)
    # The picture keeps its aspect ratio, so there is no warning.
    assert exemplars.read_folder(folder, (5, 30)).images.shape == (1, 5, 30, 3)


def test_heic_pictures_are_read_only_with_the_package_pillow_heif(tmp_path):
    folder = _folder(tmp_path, {"0.heic": ["cat {} stone"]}, **{"0": _pictures(1)[0]})
    (folder / "0.png").rename(folder / "0.heic")
    (folder / "0.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ValueError, match=r"0\.heic: unreadable picture"):
        exemplars.read_folder(folder, 12)
    heif = pytest.importorskip("pillow_heif", reason="reading them needs it")
    heif.register_heif_opener()
    shown = np.full((16, 16, 3), 200, np.uint8)
    Image.fromarray(shown).save(folder / "0.heic", "HEIF")
    (read,) = exemplars.read_folder(folder, 12).images
    np.testing.assert_allclose(read, 200 / 127.5 - 1, atol=0.05)


def test_a_missing_folder_or_text_json_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        exemplars.read_folder(tmp_path / "nowhere", 12)
    with pytest.raises(FileNotFoundError, match=r"text\.json: missing"):
        exemplars.read_folder(tmp_path, 12)


def test_an_error_about_an_unreadable_picture_names_the_file(tmp_path, monkeypatch):
    folder = _folder(tmp_path, {"0.png": ["cat {} stone"]}, **{"0": _pictures(1, 64, 64)[0]})
    file = folder / "0.png"
    whole = file.read_bytes()

    def refused(match):
        with pytest.raises(ValueError, match=match) as caught:
            exemplars.read_folder(folder, 12)
        assert "0.png: unreadable picture" in str(caught.value)

    with io.BytesIO() as other:
        Image.new("RGB", (8, 8)).save(other, "TIFF")
        tiff = other.getvalue()
    for content in (b"", b"no picture", whole[: len(whole) // 2], tiff):
        file.write_bytes(content)
        refused("unreadable")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(file)
    refused("8 bits per channel")
    file.write_bytes(whole)
    for limit in (64 * 64 - 1, 64 * 32 - 1):  # at the first limit Pillow warns, at the second it refuses the file
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        refused("decompression bomb")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    assert exemplars.read_folder(folder, 12).images.shape == (1, 12, 12, 3)


def test_pictures_without_captions_are_left_out_with_a_warning(tmp_path):
    one, two = _pictures()
    folder = _folder(tmp_path, {"0.png": ["cat {} stone"]}, **{"0": one, "1": two, ".hidden": two})
    (folder / "LICENSE").write_text("")
    with pytest.warns(UserWarning, match=r"text\.json does not name them: 1\.png$"):
        read = exemplars.read_folder(folder, 12)
    assert read.names == ("0.png",)
    (folder / "1.png").unlink()
    with warnings.catch_warnings(action="error"):
        exemplars.read_folder(folder, 12)


@pytest.mark.skipif(not EXEMPLARS.is_dir(), reason="needs the ReVersion Benchmark's exemplars beside the repository")
def test_every_real_exemplar_of_the_benchmark_is_read_and_inverted():
    swaps = []
    for relation in ("carved_by", "inside", "painted_on"):
        read = exemplars.read_folder(EXEMPLARS / relation, 32, invertible=True)
        assert read.images.shape == (9, 32, 32, 3)
        assert read.images.std() > 0.2
        assert all(len(templates) == 2 for templates in read.templates)
        for short, long in read.templates:
            subject, object_ = short.fill("{}").split(" {} ")
            assert short.inverse() == f"{object_} <R-inv> <R> {subject}"
            assert long.inverse() == f"a photo of {object_} <R-inv> <R> {subject}"
            swaps.append((subject, object_))
    assert len(swaps) == 27
    assert ("Michael Jackson", "T-shirt") in swaps
