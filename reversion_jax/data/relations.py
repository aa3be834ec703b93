"""The relations that ReVersion's benchmark knows, and two plain ones that the miniature draws besides."""

# Natural words for the ReVersion Benchmark's ten, in the order of ReVersion's paper; the words are our choice.
WORDS = {
    "painted_on": "painted on",
    "carved_by": "carved out of",
    "shake_hands": "shaking hands with",
    "hug": "hugging",
    "back2back": "back to back with",
    "inside": "inside",
    "on": "on top of",
    "hanging_from": "hanging from",
    "wrapped_in": "wrapped in",
    "ride_on": "riding on",
}
RELATIONS = tuple(WORDS)
PLAIN = {"beside": "beside", "above": "above"}
SYMMETRIC = ("shake_hands", "hug", "back2back", "beside")  # "B <relation> A" says the same as "A <relation> B"
