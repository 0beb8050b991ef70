"""Text to token ids and back; what a user types is always plain text, never a special token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import tokenizers

from timeviper.core.errors import CheckpointError, ConfigError, RequestError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
# What a decoder shows where bytes of a character are still missing.
_UNFINISHED = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class SpecialRoles:
    """Names of the tokens that other libraries look for by their role; None where there is none."""

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None


@final
class Tokenizer:
    """A `tokenizers.Tokenizer` behind which user text cannot turn into special tokens.

    Args:
        backend: the tokenizer with its special tokens.
        roles: which special tokens start, end and pad, for other libraries.

    Law: `decode(encode(text)) == text` for byte-level vocabularies without a normalizer.
    """

    def __init__(self, backend: tokenizers.Tokenizer, *, roles: SpecialRoles | None = None) -> None:
        self.roles = roles or SpecialRoles()
        self._full = backend
        self._plain = _without_specials(backend)
        self._specials = {
            token.content: number for number, token in backend.get_added_tokens_decoder().items()
        }
        self._special_ids = frozenset(self._specials.values())
        for role, name in vars(self.roles).items():
            if name is not None and name not in self._specials:
                raise ConfigError(
                    want=f"the {role} token to be one of {', '.join(self._specials)}",
                    got=repr(name),
                    do="name a special token of this tokenizer",
                )

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Read `tokenizer.json`, and the roles from `tokenizer_config.json` when it is there.

        Raises:
            CheckpointError: the file is missing or not a tokenizer.
        """
        path = Path(folder) / TOKENIZER_FILE
        if not path.is_file():
            raise CheckpointError(
                want=f"{TOKENIZER_FILE} in the checkpoint folder",
                got="no such file",
                do="restore it",
            )
        try:
            backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        # The library raises bare Exception for every fault of a file.
        except Exception as error:
            raise CheckpointError(
                want=f"{TOKENIZER_FILE} to be a tokenizer", got=error, do="restore the file"
            ) from None
        return cls(backend, roles=_read_roles(Path(folder) / TOKENIZER_CONFIG_FILE))

    def save(self, folder: Path | str) -> None:
        """Write the three files that Hugging Face tools expect of a tokenizer."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        named = {f"{role}_token": name for role, name in vars(self.roles).items() if name}
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **named,
        }
        others = sorted(set(self._specials) - set(named.values()), key=self._specials.__getitem__)
        (target / TOKENIZER_FILE).write_text(self._full.to_str(pretty=False), encoding="utf-8")
        _write_json(target / TOKENIZER_CONFIG_FILE, config)
        _write_json(target / SPECIAL_TOKENS_FILE, {**named, "additional_special_tokens": others})

    def to_json(self) -> str:
        """Everything that decides how text becomes ids, as the text of a `tokenizer.json`."""
        return self._full.to_str(pretty=False)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._full.get_vocab_size(with_added_tokens=True)

    @property
    def special_names(self) -> tuple[str, ...]:
        """Names of all special tokens, by rising id."""
        return tuple(sorted(self._specials, key=self._specials.__getitem__))

    def special_id(self, name: str) -> int:
        """Id of the special token called `name`.

        Raises:
            ConfigError: there is no such special token.
        """
        if name not in self._specials:
            raise ConfigError(
                want=f"a special token of this tokenizer ({', '.join(self.special_names[:20])})",
                got=repr(name),
                do="use the tokenizer and the chat template of the same model",
            )
        return self._specials[name]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; a special token's name in it is spelled out like any word.

        Raises:
            RequestError: text that is not valid Unicode.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several plain texts; faster than one by one.

        Raises:
            RequestError: text that is not valid Unicode.
        """
        for text in texts:
            _check_unicode(text)
        found = self._plain.encode_batch(list(texts), add_special_tokens=False)
        ids = [encoding.ids for encoding in found]
        # Merges cannot reach a special token unless a foreign file spells one out of them.
        if not self._special_ids.isdisjoint(number for row in ids for number in row):
            raise RequestError(
                want="text that this tokenizer reads as plain text",
                got="the name of a special token",
                do="reword the text",
            )
        return ids

    def decode(self, ids: Iterable[int], *, keep_specials: bool = False) -> str:
        """Text of token ids, without special tokens unless asked; broken bytes show as U+FFFD."""
        return self._full.decode(list(ids), skip_special_tokens=not keep_specials)

    def stream(self) -> StreamDecoder:
        """A decoder for the tokens of one answer as they come."""
        return StreamDecoder(self)


@final
class StreamDecoder:
    """Gives the text of an answer piece by piece and never half a character.

    Law: the pieces of `feed` and `flush` together are `decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._waiting: list[int] = []

    def feed(self, token_id: int) -> str:
        """Take one more token; the text that is now certain, often one word, sometimes nothing."""
        self._waiting.append(token_id)
        text = self._tokenizer.decode(self._waiting)
        if text.endswith(_UNFINISHED):
            return ""
        self._waiting.clear()
        return text

    def flush(self) -> str:
        """Whatever is left at the end of the answer."""
        text = self._tokenizer.decode(self._waiting)
        self._waiting.clear()
        return text


def _without_specials(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same vocabulary, but no string is looked for before the text is split into words."""
    spec: dict[str, Any] = json.loads(backend.to_str())
    spec.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            want="text in valid Unicode",
            got=f"a lone surrogate at character {error.start}",
            do="remove it or pass the text as UTF-8",
        ) from None


def _read_roles(path: Path) -> SpecialRoles:
    if not path.is_file():
        return SpecialRoles()
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(want=f"{path.name} to be JSON", got=error, do="restore it") from None
    return SpecialRoles(
        **{role: _name(data.get(f"{role}_token")) for role in ("bos", "eos", "pad")}
    )


def _name(token: Any) -> str | None:
    # Older files hold an object with the name under `content`.
    return token["content"] if isinstance(token, dict) else token


def _write_json(path: Path, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")
