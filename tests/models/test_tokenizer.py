import subprocess
import sys

import pytest
import tiny

from reversion_jax.models.tokenizer import Tokenizer

V = 600
START, END = 194 + 14, 194 + 15


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(path):
    return Tokenizer.load(path, {"<R>": 2, "<R-inv>": 1}, vocab_size=V, length=77)


def words(tokenizer, text):
    """Returns the ids of a text without start, end and padding."""
    ids = tokenizer(text)[0].tolist()
    start, end = tokenizer.backend.bos_token_id, tokenizer.backend.eos_token_id
    assert ids[0] == start
    stop = ids.index(end)
    assert set(ids[stop:]) == {end}
    return ids[1:stop]


@pytest.mark.parametrize("text", ["", "photo of Cat", "a cat's dog, 12 on-top\n of!", "cat " * 30])
def test_plain_text_has_the_ids_and_padding_of_transformers(text, path, tokenizer):
    from transformers import CLIPTokenizer

    arguments = {"padding": "max_length", "truncation": True, "max_length": tiny.LENGTH}
    wanted = CLIPTokenizer.from_pretrained(path)(text, **arguments)["input_ids"]
    found = tokenizer(text)
    assert found.dtype == "int32"
    assert found.tolist() == [wanted]


def test_a_tokenizer_saved_by_transformers_5_gives_the_same_ids(path, tokenizer, tmp_path):
    """transformers 5 writes vocabulary and merges into one file, tokenizer.json."""
    from transformers import CLIPTokenizer

    CLIPTokenizer.from_pretrained(path).save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (tmp_path / name).unlink(missing_ok=True)
    assert (tmp_path / "tokenizer.json").is_file()
    found = Tokenizer.load(tmp_path, {"<R>": 2, "<R-inv>": 1}, vocab_size=V, length=77)
    texts = ["", "photo of Cat", "a cat's dog, 12 on-top of <R-inv> <R>!", "cat " * 30]
    assert found(texts).tolist() == tokenizer(texts).tolist()
    assert found.special_ids == tokenizer.special_ids
    assert found.ids_to_words(range(190, 200)) == tokenizer.ids_to_words(range(190, 200))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "1.0"}', '{"model": {"type": "BPE"}}'])
def test_an_error_about_a_damaged_tokenizer_names_its_folder(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=rf"cannot read the tokenizer in {tmp_path}") as error:
        Tokenizer.load(tmp_path, vocab_size=V, length=77)
    assert "\n" not in str(error.value)


def test_texts_have_the_smaller_length_of_model_and_tokenizer(path):
    assert Tokenizer.load(path, vocab_size=V, length=77).length == tiny.LENGTH
    assert Tokenizer.load(path, vocab_size=V, length=5)("cat dog cat dog").shape == (1, 5)


def test_a_placeholder_becomes_the_ids_of_its_rows(tokenizer):
    cat, dog = tokenizer.word_ids("cat")[0], tokenizer.word_ids("dog")[0]
    assert words(tokenizer, "cat <R> dog") == [cat, V, V + 1, dog]
    assert words(tokenizer, "dog <R-inv> cat") == [dog, V + 2, cat]
    assert words(tokenizer, "<R><R-inv><R>") == [V, V + 1, V + 2, V, V + 1]
    assert tokenizer.placeholder_ids("<R>") == [V, V + 1]
    assert tokenizer.placeholder_ids("<R-inv>") == [V + 2]


@pytest.mark.parametrize("before", ["", ",", "cat", "(", "\n"])
@pytest.mark.parametrize("after", ["", ",", ".", "'s", "dog", "-"])
def test_placeholders_are_found_next_to_other_text(before, after, tokenizer):
    wanted = [*tokenizer.word_ids(before), V, V + 1, *tokenizer.word_ids(after)]
    assert words(tokenizer, f"{before}<R>{after}") == wanted


def test_other_spellings_of_a_placeholder_are_ordinary_text(tokenizer):
    assert max(words(tokenizer, "<r> <R -inv> R>")) < V


def test_a_placeholder_that_begins_a_longer_placeholder_is_not_confused_with_it(path):
    tokenizer = Tokenizer.load(path, {"<R": 1, "<R>": 1}, vocab_size=V, length=77)
    assert words(tokenizer, "<R> <R <R>") == [V + 1, V, V + 1]


def test_ids_are_turned_back_into_words_and_placeholders(tokenizer):
    ids = [*tokenizer.word_ids("cat <R> dog"), V + 2]
    assert tokenizer.ids_to_words(ids) == ["cat", "<R>", "<R>", "dog", "<R-inv>"]


def test_the_special_ids_are_those_of_the_start_and_the_end_token(tokenizer):
    assert tokenizer.special_ids == (tokenizer.backend.bos_token_id, tokenizer.backend.eos_token_id)


def test_text_beyond_the_length_is_reported(tokenizer):
    assert tokenizer.length == 12
    assert tokenizer.truncated("cat " * 10) is None
    assert tokenizer.truncated("cat " * 10 + "dog, on top") == "dog, on top"
    assert tokenizer.truncated("cat " * 8 + "<R>") is None
    assert tokenizer.truncated("cat " * 9 + "<R> dog") == "<R> dog"
    assert tokenizer.truncated("<R>, " + "Cat " * 10) == "Cat Cat Cat "
    assert words(tokenizer, "cat " * 40) == tokenizer.word_ids("cat") * 10


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(path, tmp_path):
    with pytest.raises(ValueError, match="only 100"):
        Tokenizer.load(path, vocab_size=100, length=77)
    with pytest.raises(ValueError, match="no tokenizer in"):
        Tokenizer.load(tmp_path, vocab_size=V, length=77)
    with pytest.raises(ValueError, match="at least one row"):
        Tokenizer.load(path, {"<R>": 0}, vocab_size=V, length=77)


def test_the_tokenizer_needs_no_torch_and_prints_nothing(path):
    program = f"""
import sys
sys.modules["torch"] = None  # importing it fails
from reversion_jax.models.tokenizer import Tokenizer
assert "transformers" not in sys.modules
print(Tokenizer.load({str(path)!r}, vocab_size=600, length=77)("cat").shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(1, 12)\n", "")
