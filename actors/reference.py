"""The reference: log-probabilities of both sides of a pair under the weights that made them."""

from actors.chat import ChatFormat
from actors.pool import PoolClient
from pipelines.records import Pair


class Reference:
    """Fills a pair's prompt ids and reference log-probabilities."""

    def __init__(self, client: PoolClient, chat: ChatFormat):
        self._client, self._chat = client, chat

    async def score(self, pair: Pair, version: str) -> Pair:
        """The pair with `prompt_ids`, `ref_logp_*` (sums over response tokens, natural log) and their version.

        Sides that no engine made (a gold chain) are tokenised here, as an assistant turn with its end-of-turn token.
        """
        prompt_ids = self._chat.render(pair["messages"])
        chosen = pair["chosen_ids"] or self._turn(pair["chosen_text"])
        rejected = pair["rejected_ids"] or self._turn(pair["rejected_text"])
        (chosen_logps, rejected_logps), made_by = await self._client.score(prompt_ids, [chosen, rejected], version)
        return {
            **pair,
            "prompt_ids": prompt_ids,
            "chosen_ids": chosen,
            "rejected_ids": rejected,
            "ref_logp_chosen": sum(chosen_logps),
            "ref_logp_rejected": sum(rejected_logps),
            "ref_version": made_by,
            "template_hash": self._chat.template_hash,
        }

    def _turn(self, text: str) -> list[int]:
        return [*self._chat.encode(text), self._chat.end_of_turn()]
