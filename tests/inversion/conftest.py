import pytest
from tiny_step import make_data

from reversion_jax.inversion.arrays import Data
from reversion_jax.models.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(small_model) -> Tokenizer:
    text = small_model.model.config.text
    return Tokenizer.load(
        small_model.model.tokenizer_folder,
        {"<R>": 1, "<R-inv>": 1},
        vocab_size=text.vocab_size,
        length=text.max_position_embeddings,
    )


@pytest.fixture(scope="module")
def data(small_model, tokenizer) -> Data:
    return make_data(tokenizer, small_model.model, 3)
