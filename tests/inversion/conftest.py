import pytest
from tiny_step import make_data

from reversion_jax.inversion.arrays import Data
from reversion_jax.models.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(recorded) -> Tokenizer:
    text = recorded.model.config.text
    return Tokenizer.load(
        recorded.model.tokenizer_folder,
        {"<R>": 1, "<R-inv>": 1},
        vocab_size=text.vocab_size,
        length=text.max_position_embeddings,
    )


@pytest.fixture(scope="module")
def data(recorded, tokenizer) -> Data:
    return make_data(tokenizer, recorded.model, 3)
