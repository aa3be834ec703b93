"""Lists the commands: python -m reversion_jax"""

COMMANDS = {
    "train": "learns a relation from exemplars",
    "sample": "draws pictures with a learned word, or with any model and embedding",
    "export": "writes the files that other tools load",
    "inspect": "compares a learned word with the model's words, and maps its attention",
    "evaluate": "compares methods, on the miniature or on the ReVersion Benchmark",
    "score": "scores pictures by a CLIP model, or measures learned words",
    "study": "asks people which method's pictures fit best",
    "app": "opens a page in the browser, to learn, draw and inspect a relation",
    "dreambooth": "fine-tunes a whole model on exemplars, as a baseline",
}

if __name__ == "__main__":
    print(__doc__)
    for name, does in COMMANDS.items():
        print(f"    python -m reversion_jax.{name:10}  {does}")
    print("\nEach command explains its flags with --help.")
