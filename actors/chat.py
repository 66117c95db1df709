"""Conversations as token ids, with untrusted text kept text.

The chat template is rendered once with placeholders for the contents; only the template's own part may become control
tokens. What a user or a model wrote is tokenised with special tokens disabled, so that "<|im_end|>" inside a prompt is
eleven characters, never the end of a turn. For text without such strings the ids equal the tokenizer's own rendering.
"""

import itertools
import re
from typing import Any, cast

from pipelines.records import Message, digest


class ChatFormatError(ValueError):
    """The model's chat template cannot be used safely; the message says why."""


# Some templates (Llama 3) write today's date; a run that lasts past midnight must render the same prompt again.
TEMPLATE_DATE = "26 Jul 2024"
_MARK = "\ue000{}\ue001"  # private-use characters: no template produces them
_MARKS = re.compile("\ue000(\\d+)\ue001")


class ChatFormat:
    """The chat template of one checkpoint as a pure function from messages to token ids."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise ChatFormatError(
                "the model has no chat template; use an instruct model or add chat_template.jinja to its folder"
            )
        self.template_hash = digest("chat", tokenizer.chat_template)[:16]
        # Llama 3 names its header tokens in no special-token slot; Qwen's <think> is added without being special.
        added = [t for t in tokenizer.added_tokens_decoder.values() if t.content.strip()]
        named = {t.content for t in added if not t.special and t.content in tokenizer.chat_template}
        specials = sorted({t.content for t in added if t.special} | named | set(tokenizer.all_special_tokens))
        self._specials = _any_of(specials)
        self._special_ids = {s: tokenizer.convert_tokens_to_ids(s) for s in specials}
        self._unsplit = re.compile(f"(?={_any_of(sorted(named)).pattern})")
        self.check()

    @classmethod
    def load(cls, path: str) -> "ChatFormat":
        """The format of the checkpoint in folder `path`; raises ChatFormatError."""
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(path))

    def render(self, messages: list[Message]) -> list[int]:
        """Token ids of the conversation up to where the assistant's answer begins."""
        contents = [m["content"] for m in messages]
        if any(_MARKS.search(c) for c in contents):
            raise ChatFormatError("a message holds the private-use characters U+E000 and U+E001 around a number")
        marked = cast(list[Message], [{**m, "content": _MARK.format(i)} for i, m in enumerate(messages)])
        skeleton = self._template(marked)
        if [int(i) for i in _MARKS.findall(skeleton)] != list(range(len(messages))):
            raise ChatFormatError("the chat template drops, repeats or reorders messages; Appellate cannot use it")
        if _fill(skeleton, contents) != self._template(messages):
            contents = [c.strip() for c in contents]  # several templates trim their messages
            if _fill(skeleton, contents) != self._template(messages):
                raise ChatFormatError("the chat template changes the messages' text; Appellate cannot use it")
        ids: list[int] = []
        position = 0
        for match in self._specials.finditer(skeleton):
            ids += self._plain(_fill(skeleton[position : match.start()], contents))
            ids.append(self._special_ids[match.group()])
            position = match.end()
        return ids + self._plain(_fill(skeleton[position:], contents))

    def decode(self, token_ids: list[int]) -> str:
        """Text of generated ids without control tokens."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; control-token strings in it stay text."""
        return self._plain(text)

    def tokens_of(self, text: str) -> list[int]:
        """The tokens that are this text alone, first the one that begins an answer, then that after a space.

        Raises ValueError where the vocabulary has none.
        """
        ends = [self.encode(written)[-1] for written in (text, f" {text}")]
        found = [token for token in dict.fromkeys(ends) if self.decode([token]).strip() == text]
        if not found:
            raise ValueError(f"the model's vocabulary has no token for {text!r} alone")
        return found

    def turn(self, text: str) -> list[int]:
        """Ids of an answer and of the token that ends it."""
        return [*self.encode(text), self.end_of_turn()]

    def end_of_turn(self) -> int:
        """Id of the token that ends an answer."""
        return int(self.tokenizer.eos_token_id)

    def check(self) -> None:
        """Refuse a template whose safe rendering differs from the tokenizer's own on ordinary text."""
        turns: list[Message] = [
            {"role": "user", "content": "What is 2 + 2?\nAnswer briefly."},
            {"role": "assistant", "content": "It is 4."},
            {"role": "user", "content": "Zwei Zeilen,\n\n  naïve café, 你好 🙂"},
        ]
        for messages in (turns[:1], turns):
            safe, own = self.render(messages), self._own_ids(messages)
            if safe != own:
                shorter = min(len(safe), len(own))
                at = next((i for i in range(shorter) if safe[i] != own[i]), shorter)
                raise ChatFormatError(
                    f"the safe rendering differs from the tokenizer's own at token {at}: {safe[at:at + 5]} against "
                    f"{own[at:at + 5]}; training ids would not match, so the run stops here"
                )

    def _template(self, messages: list[Message]) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, date_string=TEMPLATE_DATE
        )

    def _own_ids(self, messages: list[Message]) -> list[int]:
        return list(self.tokenizer(self._template(messages), add_special_tokens=False)["input_ids"])

    def _plain(self, text: str) -> list[int]:
        # `split_special_tokens` splits special tokens only; the others are cut after their first character here.
        cuts = [0, *(match.start() + 1 for match in self._unsplit.finditer(text)), len(text)]
        parts = [text[start:end] for start, end in itertools.pairwise(cuts) if start < end]
        encode = self.tokenizer
        return [i for p in parts for i in encode(p, add_special_tokens=False, split_special_tokens=True)["input_ids"]]


def _any_of(words: list[str]) -> re.Pattern[str]:
    """Matches any of the words, the longest first; nothing when there is none."""
    return re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) or r"(?!)")


def _fill(skeleton: str, contents: list[str]) -> str:
    return _MARKS.sub(lambda match: contents[int(match.group(1))], skeleton)
