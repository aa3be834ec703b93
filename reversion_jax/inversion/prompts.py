"""Parses relation templates, such as "a photo of cat {} stone, on the beach", and makes prompts from them.

A template is a string in which `{}` marks the relation. The parser has to find the two entities in the string: the
subject before `{}` (E_A in the paper) and the object after it (E_B). A template can also have the explicit form, which
names the entities: {"text": "a photo of {subject} {} {object}, at night", "subject": "cat", "object": "stone"}.

The prompts of the template in the first sentence are:

    direct    a photo of cat <R> stone, on the beach
    inverse   a photo of stone <R-inv> <R> cat, on the beach      (Inv-ReVersion §3.2)
    natural   a photo of cat carved into stone, on the beach
"""

import dataclasses
import re
import string
from collections.abc import Mapping

from reversion_jax.inversion import words

RELATION = "<R>"
INVERSE = "<R-inv>"
PLACEHOLDERS = (RELATION, INVERSE)

Template = str | Mapping[str, str]

_EXPLICIT = '{"text": "… {subject} {} {object} …", "subject": "…", "object": "…"}'

# A known prefix is [article] [adjectives] medium "of". Any other "of" in an entity makes a template ambiguous.
_ADJECTIVES = (
    "good|nice|great|beautiful|bad|blurry|cropped|dark|bright|clear|colou?r|colou?rful|close-up|closeup|cool"
    "|weird|detailed|realistic|vintage|black and white|black-and-white|(?:low|high)[ -]resolution|oil"
    "|watercolou?r|acrylic|pencil|charcoal|ink|digital|3d|studio|professional"
)
_MEDIA = (
    "photo|photograph|picture|image|painting|drawing|sketch|illustration|rendering|rendition|render"
    "|depiction|close-up|closeup|snapshot|cartoon|watercolou?r"
)
_PREFIX = re.compile(rf"(?:(?:an?|the) )?(?:(?:{_ADJECTIVES}) )*(?:{_MEDIA}) of(?: |$)", re.IGNORECASE)
# The object ends at the first comma, or before the punctuation that ends the sentence.
_SUFFIX = re.compile(r",.*|[.!?]+$")

_DETERMINER = re.compile("an?|the|my|your|his|her|its|our|their|this|that|these|those|some|one")
# Words, besides the packaged prepositions, that begin a clause. An entity may end before such a word.
_CLAUSE_WORD = re.compile(
    "of|and|or|but|nor|as|than|while|during|until|till|since|except|despite|per|versus|plus|minus|astride"
    "|next|because|if|where|when|whenever|who|whom|whose|which|is|are|was|were|be|been|being|am|has|have|had"
    "|having|do|does|did|can|could|will|would|shall|should|may|might|must|today|tonight|now|here|there"
    "|together|outdoors|indoors|away|again"
)
# A word that ends in -ing with a vowel before it ("glowing", not "ring") counts as a verb, except for these nouns.
_PARTICIPLE = re.compile("[a-z]*[aeiouy][a-z]*ing")
_NOUN_IN_ING = re.compile(
    "awning|bedding|building|carving|ceiling|clothing|crossing|drawing|dressing|duckling|dumpling|earring"
    "|engraving|evening|frosting|gosling|herring|icing|landing|lightning|lining|morning|painting|pudding"
    "|railing|sapling|seedling|sibling|starling|stocking|topping|wedding"
)
# Marks that end a phrase: sentence punctuation, brackets, long dashes, and symbols between spaces ("stone | 4k").
_MARK = re.compile(r"[.;:!?](?=\s|$)|[()\[\]–—]|(?<!\S)[^\w\s]+(?!\S)")


@dataclasses.dataclass(frozen=True)
class RelationPrompt:
    """A parsed template. `text` has the fields {subject}, {} and {object}, each once.

    If the parser cannot find the entities with certainty, `text` has only {}, and `fault` says why and how to mend the
    template. A prompt with a `fault` has no inverse.
    """

    text: str
    subject: str = ""
    object: str = ""
    fault: str = ""  # "" if the entities are known

    def fill(self, relation: str) -> str:
        """Returns the prompt with `relation` in place of `{}`."""
        return self.text.format(relation, subject=self.subject, object=self.object)

    def direct(self) -> str:
        """Returns the direct prompt "E_A <R> E_B"."""
        return self.fill(RELATION)

    def natural(self, words: str) -> str:
        """Returns the prompt with plain words for the relation, such as "carved into".

        Raises ValueError if `words` is empty.
        """
        if not words.strip():
            raise ValueError(f"no words for the relation of {self.fill('{}')!r}: give at least one")
        return self.fill(words)

    def swapped(self) -> "RelationPrompt":
        """Returns the prompt with its entities swapped. Raises ValueError(`fault`) if the entities are unknown."""
        if self.fault:
            raise ValueError(self.fault)
        return dataclasses.replace(self, subject=self.object, object=self.subject)

    def inverse(self) -> str:
        """Returns the inverse prompt "E_B <R-inv> <R> E_A" (Inv-ReVersion §3.2).

        The entities are swapped; the text before and after them stays in place. Raises ValueError(`fault`) if the
        entities are unknown.
        """
        return self.swapped().fill(f"{INVERSE} {RELATION}")


def parse(template: Template) -> RelationPrompt:
    """Splits a template into its text, subject and object.

    A known prefix ("a photo of"), and everything from the first comma on, belong to neither entity. If the template
    still has more than one reading, the `fault` of the result says how to mend it. The explicit form has only one
    reading. Raises ValueError if a string does not have `{}` exactly once, and for a faulty explicit form.
    """
    if isinstance(template, Mapping):
        return _parse_explicit(template)
    whole = _with_one_slot(template)
    before, after = (side.strip() for side in whole.split("{}"))
    if "," in before:
        return RelationPrompt(whole, fault=f"comma before {{}} in {template!r}: what is the subject? Use {_EXPLICIT}")
    prefix = _PREFIX.match(before)
    suffix = _SUFFIX.search(after)
    subject = before[prefix.end() :] if prefix else before
    object_ = after[: suffix.start()].strip() if suffix else after
    for role, entity in (("subject", subject), ("object", object_)):
        if fault := _fault(entity):
            remedy = f"put a comma after the object if other words follow it, or use {_EXPLICIT}"
            return RelationPrompt(whole, fault=f"{role} {entity!r} of {template!r} {fault}: {remedy}")
    text = "{subject} {} {object}"
    text = (f"{prefix.group().strip()} " if prefix else "") + text + (suffix.group() if suffix else "")
    return RelationPrompt(text, subject, object_)


def _with_one_slot(template: str) -> str:
    """Checks that the only field of a template is one `{}`, and returns the template with single spaces."""
    if not isinstance(template, str):
        raise ValueError(f"template {template!r} is a {type(template).__name__}: use a string or {_EXPLICIT}")
    text = " ".join(template.split())
    if (count := text.count("{}")) != 1:
        raise ValueError(f"{count} {{}} in {template!r}: mark the relation with one {{}}, as in 'cat {{}} stone'")
    if re.search(r"[{}]", text.replace("{}", "")):
        raise ValueError(f"braces besides {{}} in {template!r}: named fields need the form {_EXPLICIT}")
    _check_slot(text)
    return text


def _check_slot(text: str) -> None:
    """Raises ValueError if `{}` touches a word, or if the text contains <R> or <R-inv>."""
    if not re.search(r"(?<!\S)\{\}(?=[\s,.;:!?]|$)", text):
        raise ValueError(f"{{}} touches another word in {text!r}: put spaces around it")
    if _names_placeholder(text):
        raise ValueError(f"placeholder in the template {text!r}: write only {{}} in place of the relation")


def _names_placeholder(text: str) -> bool:
    """Returns whether a text contains <R> or <R-inv>, in upper or lower case."""
    return RELATION.lower() in text.lower() or INVERSE.lower() in text.lower()


def _fault(entity: str) -> str:
    """Returns why the text may not be exactly one entity with its articles and adjectives, or "" if it seems to be."""
    content = [word for word in _plain_words(entity) if not _DETERMINER.fullmatch(word)]
    if not content:
        return "is empty"
    if mark := _MARK.search(entity):
        return f'may end at "{mark.group()}"'
    for position, word in enumerate(content):
        # "swimming pool" and "painted wall" are entities, but "stone glowing" and the single word "standing" are not.
        attributive = position == 0 and len(content) > 1
        if _opens_clause(word) or (not attributive and _is_verb(word)):
            return f'may end at "{word}"'
    return ""


def _plain_words(entity: str) -> list[str]:
    """Returns the words of an entity in lower case, without quotation marks."""
    return [word.strip("'\"").lower() for word in entity.split()]


def _opens_clause(word: str) -> bool:
    """Returns whether a word is a preposition or another word that begins a clause."""
    return word in words.packaged("prepositions") or bool(_CLAUSE_WORD.fullmatch(word))


def _is_verb(word: str) -> bool:
    """Returns whether a word is in the packaged list of verbs, or looks like a participle in -ing."""
    participle = _PARTICIPLE.fullmatch(word) and not _NOUN_IN_ING.fullmatch(word)
    return word in words.packaged("verbs") or bool(participle)


def _parse_explicit(template: Mapping[str, str]) -> RelationPrompt:
    """Parses a template in the explicit form. Raises ValueError if a field is missing or has the wrong content."""
    shown = dict(template)
    keys = ("text", "subject", "object")
    for key in keys:
        if not isinstance(template.get(key), str) or not template[key].strip():
            raise ValueError(f"no {key!r} in {shown}: the explicit form is {_EXPLICIT}")
    if unknown := set(template) - set(keys):
        raise ValueError(f"unknown key {min(map(str, unknown))!r} in {shown}: the explicit form is {_EXPLICIT}")
    prompt = RelationPrompt(**{key: " ".join(template[key].split()) for key in keys})
    try:
        fields = [part[1:] for part in string.Formatter().parse(prompt.text) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"text {prompt.text!r}: {error}; the explicit form is {_EXPLICIT}") from error
    if sorted(fields) != [(name, "", None) for name in ("", "object", "subject")]:
        raise ValueError(f"text {prompt.text!r} must contain {{subject}}, {{}} and {{object}}, each once")
    _check_slot(prompt.text)
    for key, entity in (("subject", prompt.subject), ("object", prompt.object)):
        if re.search(r"[{}]", entity) or _names_placeholder(entity):
            raise ValueError(f"{key} {entity!r} contains braces or a placeholder: name the entity in plain words")
    return prompt
