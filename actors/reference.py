"""The reference: log-probabilities of both sides of a pair under the weights that made them."""

import asyncio

from actors.chat import ChatFormat
from actors.pool import PoolClient
from actors.protocols import DIGITS
from pipelines.records import Pair


class Reference:
    """Fills a pair's prompt ids and reference log-probabilities."""

    def __init__(self, client: PoolClient, chat: ChatFormat):
        self._client, self._chat = client, chat

    async def score(self, pairs: list[Pair], version: str) -> list[Pair]:
        """The pairs with `prompt_ids`, the reference's log-probability of every response token, and its version.

        Sides that no engine made (a gold chain) are tokenised here, as an assistant turn with its end-of-turn token.
        The sides of all pairs of one prompt are asked for together, so the prompt is computed once.
        """
        ready = [self.tokenised(pair) for pair in pairs]
        prompts: dict[tuple[int, ...], list[Pair]] = {}
        for pair in ready:
            prompts.setdefault(tuple(pair["prompt_ids"]), []).append(pair)
        await asyncio.gather(*(self._fill(list(prompt), some, version) for prompt, some in prompts.items()))
        return ready

    async def _fill(self, prompt_ids: list[int], pairs: list[Pair], version: str) -> None:
        sides = {tuple(ids): list(ids) for pair in pairs for ids in (pair["chosen_ids"], pair["rejected_ids"]) if ids}
        logps, made_by = await self._client.score(prompt_ids, list(sides.values()), version)
        found: dict[tuple[int, ...], list[float]] = dict(zip(sides, logps, strict=True)) | {(): []}
        for pair in pairs:
            chosen, rejected = found[tuple(pair["chosen_ids"])], found[tuple(pair["rejected_ids"])]
            pair["ref_logps_chosen"], pair["ref_logps_rejected"] = chosen, rejected
            pair["ref_logp_chosen"], pair["ref_logp_rejected"] = sum(chosen), sum(rejected)
            pair["ref_version"] = made_by

    def tokenised(self, pair: Pair) -> Pair:
        """The pair with `prompt_ids`, the chat template's hash, and the ids of sides that came as text.

        Of a row with a second view the chosen side is a digit's token alone, without the end of a turn.
        """
        rejected, student = pair["rejected_text"], pair.get("student_messages")
        if student:
            digits = {choice: self._chat.tokens_of(choice)[0] for choice in DIGITS.choices}
            views = {"student_ids": self._chat.render(student), "digit_ids": list(digits.values())}
            pair = Pair(**{**pair, **views, "chosen_ids": [digits[pair["chosen_text"]]]})
        return {
            **pair,
            "prompt_ids": self._chat.render(pair["messages"]),
            "chosen_ids": pair["chosen_ids"] or self._chat.turn(pair["chosen_text"]),
            "rejected_ids": pair["rejected_ids"] or (self._chat.turn(rejected) if rejected else []),
            "template_hash": self._chat.template_hash,
        }
