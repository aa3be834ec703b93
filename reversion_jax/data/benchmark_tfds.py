"""The ReVersion Benchmark as a dataset of TensorFlow Datasets (TFDS). TensorFlow itself is not needed.

from reversion_jax.data.benchmark_tfds import ReversionBenchmark

builder = ReversionBenchmark()
builder.download_and_prepare()  # reads the benchmark in ~/tensorflow_datasets/downloads/manual
builder.as_data_source("inside")[0]["image"]  # uint8 [H, W, 3]
builder.info.metadata["prompts"]["inside"]  # ["cat {} box", …]
"""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from reversion_jax.data import benchmark


class ReversionBenchmark(tfds.core.GeneratorBasedBuilder):
    """Builds a dataset with one split per relation; a split has the relation's exemplars in the order of text.json.

    The prompts of each relation are in `info.metadata["prompts"]`. `info.metadata["prompts_from"]` names the source of
    the prompts.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put the ReVersion Benchmark (folder or .zip file; https://github.com/ziqihuangg/ReVersion links to it) into the
    manual folder. Put benchmark_scenarios.py from that repository beside it. Without benchmark_scenarios.py, the
    dataset has the prompts of the package reversion_jax.
    """

    def __init__(self, *, file_format: str = "array_record", **others: Any) -> None:
        # The default format of TFDS, tfrecord, needs TensorFlow.
        super().__init__(file_format=file_format, **others)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Exemplar pictures of ten relations, each with templates, and prompts for testing them.",
            homepage="https://github.com/ziqihuangg/ReVersion",
            license="S-Lab License 1.0 (non-commercial)",
            features=tfds.features.FeaturesDict(
                {
                    "relation": tfds.features.Text(),
                    "name": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    # A template in the explicit form is stored as JSON.
                    "templates": tfds.features.Sequence(tfds.features.Text()),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        folder = dl_manager.manual_dir
        prompts = benchmark.find_prompts(folder)
        self.info.metadata["prompts"] = benchmark.read_prompts(prompts)
        self.info.metadata["prompts_from"] = prompts.name if prompts else "reversion_jax"
        folders = benchmark.relation_folders(folder)
        return {relation: self._generate_examples(relation, place) for relation, place in folders.items()}

    def _generate_examples(self, relation: str, folder: benchmark.Place) -> Iterator[tuple[int, dict]]:
        for index, record in enumerate(benchmark.read_relation(folder, relation)):
            # TFDS needs TensorFlow to encode arrays, so this module encodes the pictures. The module uses PNG, which is
            # lossless. JPEG is lossy, and JPEG decoders differ.
            png = io.BytesIO()
            Image.fromarray(record.image).save(png, "PNG")
            texts = [text if isinstance(text, str) else json.dumps(text) for text in record.templates]
            yield index, {"relation": relation, "name": record.name, "image": png.getvalue(), "templates": texts}


def to_record(example: Mapping) -> benchmark.Record:
    """Turns an example of the data source into the record that `benchmark.read_records` yields for it."""
    texts = [text.decode() for text in example["templates"]]
    templates = tuple(json.loads(text) if text.startswith('{"') else text for text in texts)
    return benchmark.Record(
        example["relation"].decode(), example["name"].decode(), np.asarray(example["image"]), templates
    )
