"""Train the tokenizer of the model that ships: clock times in two tokens, one token a name.

command:  python recipes/train_tokenizer.py --out FOLDER
needs:    the texts and names of `timeviper.synth`; 5 s on one core
result:   tokenizer.json, tokenizer_config.json, special_tokens_map.json; the same bytes each run,
          3,072 ids, every word of an object's name one token (printed)
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from timeviper.processing.tokenizer import SpecialRoles, Tokenizer
from timeviper.synth import catalogue, questions

VOCAB_SIZE = 3072
SPECIALS = (
    "<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<image>",
)  # fmt: skip
ROLES = SpecialRoles(bos="<s>", eos="</s>", pad="<pad>")
# Units that merges never cross: the seconds of a clock, a number without its space (so that a
# time is the same two tokens as a mark and inside a sentence), a word with its space, one sign.
UNITS = r":[0-9]{2}(?![0-9])|[0-9]+| ?\p{L}+| ?[^\s\p{L}0-9]|\s+(?!\S)|\s"
# A clock of the model's world: minutes pass 59 because there are no hours.
MINUTES = tuple(f"{minute:02d}" for minute in range(256))
SECONDS = tuple(f":{second:02d}" for second in range(60))
# A word of the texts with its space; each is a token, so that merges are for words unseen.
WORD = r" ?[A-Za-z]+"
# The byte-level alphabet writes a space as this letter.
SPACE = "Ġ"


def build(texts: Iterable[str], names: Sequence[str], *, vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Train the tokenizer.

    Args:
        texts: sentences as the model will meet them.
        names: names of the objects; each of their words becomes one token after a space and
            one where a text or a line starts.
        vocab_size: number of ids.

    Returns:
        A byte-level BPE tokenizer: fixed tokens first, among them every word of the texts as
        written and in lower case, then merges by frequency.

    Raises:
        ValueError: more words, or fewer words and merges, than `vocab_size` holds.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    typed = [form for text in texts for form in (text, text.lower())]
    whole = {word.replace(" ", SPACE) for text in typed for word in re.findall(WORD, text)}
    for name in names:
        # `t-shirt` has a space before its first part only.
        whole |= {SPACE + word for word in re.findall(r"(?<!\S)[A-Za-z]+", name)}
        whole |= set(re.findall(r"[A-Za-z]+", name))
    fixed = dict.fromkeys([*SPECIALS, *letters, *MINUTES, *SECONDS, *sorted(whole)])
    vocab = {token: number for number, token in enumerate(fixed)}
    merges = _grow(vocab, _learn([*typed, *names], vocab_size), vocab_size)
    if len(vocab) != vocab_size:
        raise ValueError(f"{len(vocab)} tokens found, {vocab_size} wanted: change one of them")
    # ignore_merges: a unit that is a token of its own is taken whole, however it could be merged.
    backend = _shell(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    backend.add_special_tokens([AddedToken(n, normalized=False, special=True) for n in SPECIALS])
    return Tokenizer(backend, roles=ROLES)


def _grow(
    vocab: dict[str, int], learned: list[tuple[str, str]], vocab_size: int
) -> list[tuple[str, str]]:
    """Add the results of merges to `vocab` in the order learned, until it is full."""
    merges: list[tuple[str, str]] = []
    for left, right in learned:
        if left + right not in vocab:
            if len(vocab) == vocab_size:
                break
            vocab[left + right] = len(vocab)
        merges.append((left, right))
    return merges


def _learn(texts: list[str], vocab_size: int) -> list[tuple[str, str]]:
    """Merges of these texts, most frequent first; pairs seen once are not worth a token."""
    backend = _shell(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(texts, trainer)
    return [(a, b) for a, b in json.loads(backend.to_str())["model"]["merges"]]


def _shell(model: models.BPE) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(UNITS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def single_share(tokenizer: Tokenizer, names: Iterable[str], *, before: str) -> float:
    """Share of the words of `names` that are one token when `before` stands in front of them."""
    words = sorted({word for name in names for word in name.split()})
    shared = len(tokenizer.encode(before.rstrip()))
    whole = [len(tokenizer.encode(before + word)) - shared == 1 for word in words]
    return sum(whole) / len(whole)


def main() -> None:
    """Train on the texts of the drawn worlds, write the folder, print what was reached."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE)
    arguments = parser.parse_args()
    names = [thing.name for thing in catalogue.things()]
    tokenizer = build(questions.texts(), names, vocab_size=arguments.vocab_size)
    tokenizer.save(arguments.out)
    print(f"{tokenizer.vocab_size} ids, {len(names)} names")
    for label, before in (("after a space", "the "), ("at the start", "")):
        print(
            f"name words of one token {label}: {single_share(tokenizer, names, before=before):.1%}"
        )


if __name__ == "__main__":
    main()
