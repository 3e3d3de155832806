"""Our own BPE tokenizers for game states written as JSON and for web pages (laptop and smoke profiles).

A state is mostly punctuation and property keys that never vary. The text is first cut into *values* (words and
numbers: names, ids, settings, booleans) and *glue* (everything between two values, property keys included). BPE merges
run freely inside a piece of glue, so ``", "uuid": `` becomes one token, but never across the border of a value: what
has to be copied stays a token of its own. A word with its id, ``pot (ID: 6)``, is one value: a small model copies a
token it sees at once, while looking an id up by its word takes two steps that it learns late or never (docs/tried.md).
Bytes are the fall-back, so any text can be written.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, END = "<pad>", "<|end|>"
# Glue: symbols, the marker phrase of an answer, and words that a `":` makes a key. Anything else is a value: a word
# with its id, a word or a number.
_NAME = r"[A-Za-z]+ \(ID: [0-9]+\)"
_GLUE = r'(?:[^A-Za-z0-9]|[A-Za-z_]+(?=":)|The final answer is(?=: )|UUID base(?=: ))+'
GAME_PIECES = rf"{_NAME}|{_GLUE}|[A-Za-z]+|[0-9]+"
# A page's values: an element's number in its brackets, as items and actions write it; a word or a number with the
# blank before it. Glue: the rest, an item's role, the names of its attributes and an answer's headers included.
_ATTRIBUTES = "value|focused|required|checked|selected|expanded|disabled|hasPopup|pressed|live|atomic|relevant|busy"
_SIGNS = r"(?! [A-Za-z0-9])[^A-Za-z0-9\[]|\[(?![0-9]+\])"
_PAGE_GLUE = rf"(?:(?<=\]) [A-Za-z]+ ['\"]| (?:{_ATTRIBUTES}): |(?:New|Deleted|Updated) items:(?=\n)|{_SIGNS})+"
PAGE_PIECES = rf"\[[0-9]+\]|{_PAGE_GLUE}| ?[A-Za-z]+| ?[0-9]+"


def train_tokenizer(texts: Iterable[str], vocabulary: int, pieces: str = GAME_PIECES) -> PreTrainedTokenizerFast:
    """Train on an iterable of texts; at most ``vocabulary`` tokens, ``<pad>`` is 0 and ``<|end|>`` is 1.

    ``pieces`` is the pattern of what merges may run inside: ``GAME_PIECES`` or ``PAGE_PIECES``.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=80,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return wrap(tokenizer)


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The transformers tokenizer around a trained one (padding on the left, as sampling wants it)."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer saved with ``save_pretrained``; FileNotFoundError names the folder when it is not there.

    Not through ``AutoTokenizer``: beside a Qwen2 model that one puts Qwen2's own way of cutting text in place of the
    saved one, without a word.
    """
    if not (Path(folder) / "tokenizer.json").is_file():
        raise FileNotFoundError(f"no tokenizer.json in {folder}: run notebook 10, or rlvr reproduce --only 10")
    return PreTrainedTokenizerFast.from_pretrained(folder, clean_up_tokenization_spaces=False)
