"""Names of relations: ten of the ReVersion Benchmark, and two simple relations that the miniature model also draws."""

# Each relation of the ReVersion Benchmark, in the order of ReVersion's paper, with natural words that describe the
# relation. We chose the natural words.
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
PLAIN = {"beside": "beside", "above": "above"}  # relations that only the miniature model draws
SYMMETRIC = ("shake_hands", "hug", "back2back", "beside")  # "B <relation> A" means the same as "A <relation> B"
