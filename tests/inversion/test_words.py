import pytest

from reversion_jax.inversion import words


@pytest.mark.parametrize(("name", "least"), [("prepositions", 45), ("verbs", 45), ("stop_words", 80)])
def test_the_packages_word_lists_are_long_and_in_lower_case(name, least):
    loaded = words.load(name)
    assert len(loaded) >= least
    assert all(word == word.lower().strip() and word.isprintable() for word in loaded)


def test_the_packages_word_lists_do_not_overlap():
    prepositions, verbs, stop_words = map(words.load, ("prepositions", "verbs", "stop_words"))
    assert {"on", "inside", "beneath"} <= set(prepositions)
    assert {"hugging", "carved", "hanging"} <= set(verbs)
    assert {"a", "the", "photo", "of"} <= set(stop_words)
    # A relation word in two lists would count twice. A relation word among the stop words would not count at all.
    assert len({*prepositions, *verbs, *stop_words}) == len(prepositions) + len(verbs) + len(stop_words)


@pytest.mark.parametrize("name", words.NAMES)
def test_the_packages_words_are_single_tokens_of_clip(name):
    clip = pytest.importorskip("instant_clip_tokenizer", reason="has CLIP's vocabulary").Tokenizer()
    assert {word: clip.encode(word) for word in words.load(name) if len(clip.encode(word)) != 1} == {}


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_word_list_of_the_user_may_have_comments_and_blank_lines(tmp_path, kind):
    file = tmp_path / "verbs"
    file.write_bytes("\ufeff# mine\n\n Hugging \nwrapped # in paper\r\nété\n".encode())
    assert words.load(kind(file)) == ("hugging", "wrapped", "été")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"in\non top\n", "line 2: 'on top' is a phrase"),
        (b"in\non\n#\nIn\n", "line 4: 'in' is also on line 1"),
        (b"# nothing\n\n", "contains no words"),
        (b"\xff\xfe\n", "not UTF-8"),
    ],
)
def test_an_error_about_a_word_list_names_file_and_line(tmp_path, content, message):
    file = tmp_path / "list.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        words.load(file)
    assert "list.txt" in str(caught.value)


def test_an_error_about_a_missing_word_list_names_the_choices(tmp_path):
    with pytest.raises(FileNotFoundError, match="prepositions, verbs, stop_words"):
        words.load("adjectives")
    with pytest.raises(FileNotFoundError, match="no such file"):
        words.load(tmp_path)
