"""Compares CLIP with outputs of transformers (recorded, and of the installed version), and reads CLIP's folders."""

import dataclasses
import json
import shutil
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
import tiny
import tiny_clip
from flax import serialization
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import save_file

from reversion_jax.evaluation import clip_features
from reversion_jax.models import clip, clip_vision
from reversion_jax.weights import clip_folder, names

TOLERANCE = 4e-6  # the bound of the relative error; the measured errors are 2e-7 to 4e-7
RECORDED = tiny_clip.RECORDED


@pytest.fixture(scope="module")
def recorded():
    shapes = json.loads((RECORDED / "clip_shapes.json").read_text())
    with np.load(RECORDED / "clip_reference.npz") as arrays:
        return tiny.torch_weights(shapes, seed=3)["clip"], dict(arrays)


@pytest.fixture
def folder(recorded, tmp_path):
    return tiny_clip.write_folder(tmp_path / "clip", recorded[0])


def features(folder: Path, x) -> dict[str, np.ndarray]:
    config, params = clip_folder.load(folder)
    call = tiny.quick_jit(lambda p, ids, pixels: clip_vision.CLIP(config).apply({"params": p}, ids, pixels))
    text, image = call(params, x["ids"], tiny.nhwc(x["pixels"]))
    return {"text_features": text, "image_features": image}


def errors(folder: Path, recorded, variant: str) -> list[float]:
    arrays = recorded[1]
    found = features(folder, {"ids": arrays["in_ids"], "pixels": arrays["in_pixels"]})
    return [tiny.error(array, arrays[f"out_{variant}_{name}"]) for name, array in found.items()]


@pytest.mark.parametrize("variant", tiny_clip.VARIANTS)
def test_outputs_of_clip_equal_the_recorded_outputs_of_transformers(variant, recorded, tmp_path):
    """OpenAI's CLIP has quick GELU and ends a text at its highest id.

    LAION's CLIP has GELU and ends a text at its first end token.
    """
    folder = tiny_clip.write_folder(tmp_path, recorded[0], tiny_clip.VARIANTS[variant])
    assert max(errors(folder, recorded, variant)) < TOLERANCE


def test_a_mistake_in_the_config_exceeds_the_tolerance(recorded, tmp_path):
    """A wrong end of the text, activation, number of heads or epsilon gives errors far above the tolerance."""
    text, vision = tiny_clip.CONFIG.text, tiny_clip.CONFIG.vision
    wrong = [
        (dataclasses.replace(text, eos_token_id=590), vision),
        (dataclasses.replace(text, hidden_act="gelu"), dataclasses.replace(vision, hidden_act="gelu")),
        (dataclasses.replace(text, num_attention_heads=2), dataclasses.replace(vision, num_attention_heads=4)),
        (dataclasses.replace(text, layer_norm_eps=1e-3), dataclasses.replace(vision, layer_norm_eps=1e-3)),
    ]
    for i, (t, v) in enumerate(wrong):
        config = dataclasses.replace(tiny_clip.CONFIG, text=t, vision=v)
        found = errors(tiny_clip.write_folder(tmp_path / str(i), recorded[0], config), recorded, "openai")
        assert max(found[:1] if i == 0 else found) > 10 * TOLERANCE
        assert i == 0 or min(found) > 10 * TOLERANCE


def test_outputs_of_clip_equal_those_of_the_installed_transformers(tmp_path):
    pytest.importorskip("torch")
    torch_clip = pytest.importorskip("torch_clip")
    x = tiny_clip.inputs(seed=80)
    weights = tiny.torch_weights({"clip": torch_clip.shapes(tmp_path / "empty", tiny_clip.CONFIG)}, seed=4)["clip"]
    for variant, config in tiny_clip.VARIANTS.items():
        folder = tiny_clip.write_folder(tmp_path / variant, weights, config)
        theirs = torch_clip.outputs(folder, x)
        for name, array in features(folder, x).items():
            assert tiny.error(array, theirs[name]) < TOLERANCE


VIT_L14 = {
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "eos_token_id": 2},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
}


def test_vit_l14_has_the_names_and_shapes_of_transformers():
    torch = pytest.importorskip("torch")
    torch_clip = pytest.importorskip("torch_clip")
    config = clip_vision.CLIPConfig.from_json(VIT_L14)
    with torch.device("meta"):
        theirs = {name: tuple(p.shape) for name, p in torch_clip.model(config).named_parameters()}
    shapes = clip_folder.parameter_shapes(config)
    ours = {
        names.torch_names(path)[0]: names.to_torch(path, np.broadcast_to(0, shape)).shape
        for path, shape in shapes.items()
    }
    assert ours == theirs
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 427_616_513  # the published number


@pytest.mark.full_size
def test_outputs_of_vit_l14_equal_those_of_transformers(tmp_path):
    """The test needs PyTorch, 4 GB of disk and 8 GiB of memory."""
    pytest.importorskip("torch")
    torch_clip = pytest.importorskip("torch_clip")
    config = clip_vision.CLIPConfig.from_json(VIT_L14)
    shapes = {
        names.torch_names(path)[0]: list(names.to_torch(path, np.broadcast_to(np.False_, shape)).shape)
        for path, shape in clip_folder.parameter_shapes(config).items()
    }
    tiny_clip.write_folder(tmp_path, tiny.torch_weights({"clip": shapes}, seed=5)["clip"], config)
    ids = np.random.PCG64(1).random_raw(2 * 77).reshape(2, 77) % 49406
    ids[:, 9:] = 49407
    x = {"ids": ids.astype(np.int32), "pixels": tiny.noise(7, (2, 3, 224, 224))}
    theirs = torch_clip.outputs(tmp_path, x)
    for name, array in features(tmp_path, x).items():
        print(name, tiny.error(array, theirs[name]))
        assert tiny.error(array, theirs[name]) < 1e-4
    shutil.rmtree(tmp_path)


def test_absent_keys_of_a_config_have_the_defaults_of_transformers():
    config = clip_vision.CLIPConfig.from_json({"model_type": "clip"})
    assert (config.text.hidden_size, config.text.num_attention_heads, config.text.eos_token_id) == (512, 8, 49407)
    assert (config.vision.patch_size, config.projection_dim) == (32, 512)
    assert clip_vision.CLIPConfig.from_json(tiny_clip.CONFIG.to_json()) == tiny_clip.CONFIG
    # The config file of ViT-L/14 describes the text encoder twice. Only the description "text_config_dict" counts.
    both = {**VIT_L14, "text_config": {"hidden_size": 1}, "text_config_dict": {"hidden_size": 768}}
    found = clip_vision.CLIPConfig.from_json(both).text
    assert (found.hidden_size, found.num_attention_heads, found.eos_token_id) == (768, 8, 49407)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPConfig(**{k: v for k, v in both.items() if k != "model_type"})
    for field in dataclasses.fields(found):
        assert getattr(found, field.name) == getattr(theirs.text_config, field.name)
    theirs = transformers.CLIPConfig()
    for ours, part in ((config.text, theirs.text_config), (config.vision, theirs.vision_config)):
        for field in dataclasses.fields(ours):
            assert getattr(ours, field.name) == getattr(part, field.name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "siglip"}, "not a CLIP"),
        ({"vision_config": {"hidden_act": "relu"}}, "hidden_act='relu'"),
        ({"vision_config": {"image_size": 100}}, "must be a multiple of patch_size=32"),
        ({"vision_config": {"image_size": [224, 224]}}, "image_size=.224, 224. is not supported"),
    ],
)
def test_a_folder_of_another_model_than_clip_is_refused(change, says, folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", **change}))
    with pytest.raises(ValueError, match=says) as raised:
        clip_features.load(str(folder))
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def same(a, b):
    a, b = flatten_dict(a), flatten_dict(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path])


def test_sharded_half_precision_and_flax_weights_are_read(recorded, folder):
    weights, file = recorded[0], folder / "model.safetensors"
    params = clip_folder.load(folder)[1]
    file.unlink()
    shards = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(weights)}
    for shard in set(shards.values()):
        save_file({name: array for name, array in weights.items() if shards[name] == shard}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    same(clip_folder.load(folder)[1], params)
    for path in folder.glob("model*"):
        path.unlink()
    save_file({name: array.astype(np.float16) for name, array in weights.items()}, file)
    same(clip_folder.load(folder)[1], jax.tree.map(lambda x: np.float32(np.float16(x)), params))
    file.unlink()
    (folder / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(jax.tree.map(np.asarray, params)))
    same(clip_folder.load(folder)[1], params)


def test_an_error_about_clip_weights_names_all_weights_that_do_not_fit(recorded, folder):
    weights = dict(recorded[0])
    del weights["vision_model.embeddings.class_embedding"]
    weights["text_projection.weight"] = weights["text_projection.weight"][:, :3]
    # Older files contain this buffer, which is not a weight.
    weights["vision_model.embeddings.position_ids"] = np.arange(17)[None]
    weights["extra"] = np.zeros(1, np.float32)
    save_file({name: np.asarray(array, order="C") for name, array in weights.items()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit") as raised:
        clip_folder.load(folder)
    assert sorted(raised.value.args[0].splitlines()[1:]) == [
        "  misshaped text_projection.weight: (24, 3), expected (24, 32)",
        "  missing vision_model.embeddings.class_embedding",
    ]


@pytest.mark.parametrize("size", [(32, 32), (57, 41), (40, 61), (301, 200), (20, 31)])
def test_preprocessed_pictures_equal_those_of_transformers(size):
    module = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    picture = Image.fromarray((128 + 70 * tiny.noise(sum(size), (*size, 3))).clip(0, 255).astype(np.uint8))
    picture = picture.resize(picture.size[::-1])  # resizing gives the picture smooth parts
    theirs = module.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    wanted = tiny.nhwc(np.stack(theirs(picture)["pixel_values"]))[0]
    ours = clip_features.Preprocessing.from_json({"size": 32, "crop_size": {"height": 32, "width": 32}})
    np.testing.assert_allclose(ours(picture), wanted, atol=2e-6)


def test_the_published_preprocessing_is_the_default():
    sizes = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    for given in (sizes, {"size": 224, "crop_size": 224}):
        values = {"do_resize": True, "do_center_crop": True, "do_normalize": True, "resample": 3, **given}
        values |= {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
        assert clip_features.Preprocessing.from_json(values) == clip_features.Preprocessing()


@pytest.mark.parametrize(
    ("file", "values", "says"),
    [
        ("preprocessor_config.json", {"do_center_crop": False}, "do_center_crop=False is not CLIP's"),
        ("preprocessor_config.json", {"size": {"height": 32, "width": 32}}, "size=.* is not CLIP's"),
        ("preprocessor_config.json", {}, "pictures of 224 px, but config.json has image_size=32"),
        ("processor_config.json", {"image_processor": {"resample": 2}}, "resample=2"),
    ],
)
def test_preprocessing_other_than_that_of_clip_is_refused(file, values, says, folder):
    (folder / "preprocessor_config.json").unlink()
    (folder / file).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=says):
        clip_features.load(str(folder))


def test_a_tokenizer_with_another_end_token_is_refused(folder):
    tiny_config = dataclasses.replace(tiny_clip.CONFIG, text=dataclasses.replace(tiny_clip.CONFIG.text, eos_token_id=7))
    (folder / "config.json").write_text(json.dumps(tiny_config.to_json()))
    with pytest.raises(ValueError, match=r"config\.json has eos_token_id=7"):
        clip_features.load(str(folder))


def test_features_do_not_depend_on_the_batch(folder, tmp_path):
    clip_ = clip_features.load(str(folder))
    pictures = [Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)) for i in range(5)]
    pictures[1].save(tmp_path / "1.png")
    whole = clip_features.of_pictures(clip_, pictures, batch_size=8)
    pictures[1] = tmp_path / "1.png"
    np.testing.assert_allclose(clip_features.of_pictures(clip_, pictures, batch_size=2), whole, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=-1), 1, atol=1e-6)
    texts = ["cat on dog", "dog on cat", "a photo of cat"]
    vectors = clip_features.of_texts(clip_, texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-6)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    assert clip_features.of_texts(clip_, []).shape == (0, 24)
    asked = [[texts[0], texts[1]], [texts[2], texts[0]], [texts[1], texts[1]]]
    found = clip_features.of_sentences(clip_, asked)
    np.testing.assert_allclose(found, vectors[np.array([[0, 1], [2, 0], [1, 1]])], atol=1e-6)


def test_the_end_of_a_text_is_found_by_the_rule_that_belongs_to_the_end_token():
    ids = np.array([[9, 3, 5, 4, 4], [9, 4, 8, 4, 1]])
    np.testing.assert_array_equal(clip.end_of_text(ids, 4), [3, 1])
    np.testing.assert_array_equal(clip.end_of_text(ids[:, 1:], 2), [1, 1])


def test_a_clip_model_is_downloaded_from_the_hub_without_pickles(folder, monkeypatch):
    (folder / "pytorch_model.bin").touch()
    downloads = []
    present = [huggingface_hub.hf_api.RepoSibling(rfilename=path.name) for path in folder.iterdir()]
    info = huggingface_hub.ModelInfo(id="o/m", siblings=[{"rfilename": s.rfilename} for s in present])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **k: downloads.append(k["allow_patterns"]) or str(folder)
    )
    assert clip_folder.resolve("o/m") == folder
    assert sorted(downloads[1]) == sorted(path.name for path in folder.iterdir() if path.suffix != ".bin")
    (folder / "model.safetensors").unlink()
    info.siblings = [s for s in info.siblings if s.rfilename != "model.safetensors"]
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, a pickle"):
        clip_folder.resolve("o/m")
    with pytest.raises(ValueError, match="neither a folder nor a hub id"):
        clip_folder.resolve("nowhere")
