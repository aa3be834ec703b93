"""Lists the commands: python -m reversion_jax"""

COMMANDS = {
    "train": "learns a relation from exemplars",
    "sample": "draws with a learned word, or with any model and embedding",
    "export": "writes the files that other tools load",
    "inspect": "shows a learned word among the model's own, and where it looks",
    "evaluate": "compares methods on the miniature",
    "score": "scores pictures by a CLIP, or looks at learned words",
    "study": "asks people which method's pictures fit best",
    "app": "opens all of it as a page in the browser",
    "dreambooth": "fine-tunes a model on exemplars, as a baseline",
}

if __name__ == "__main__":
    print(__doc__)
    for name, does in COMMANDS.items():
        print(f"    python -m reversion_jax.{name:10}  {does}")
    print("\nEach says more with --help.")
