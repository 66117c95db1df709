"""MetaCritique as a recipe's meta-judge (R9 inside R4): of two judgements the one whose claims hold and say enough.

A judgement is a critique of a response. Its claims are checked one by one, against a reference critique that the model
writes once a response; of two judgements the higher F1 wins.
"""

from actors.speaker import Speaker
from pipelines.evaluation.services.critique_units import claims_meta_judgement
from pipelines.evaluation.services.metacritique import Settings, ask_units
from pipelines.evaluation.sources import Judging
from pipelines.recipes.base import Context, MetaJudgeStep
from pipelines.records import Group, Judgement, MetaJudgement, record_seed
from pipelines.steps.parts import visible


async def compare_by_claims(
    speaker: Speaker, group: Group, pairs: list[tuple[Judgement, Judgement]], step: MetaJudgeStep, context: Context,
    version: str,
) -> list[MetaJudgement]:
    """A verdict on every pair, recorded in both orders, since Elo weighs a win by its position.

    Three requests a response (reference answer and critique, its claims), one a judgement and one for each claim. A
    judgement that could not be split or checked leaves its pairs unreadable.
    """
    judged = {j["judgement_id"]: j for pair in pairs for j in pair}
    texts = {sample["sample_id"]: visible(sample) for sample in group["samples"]}
    gold = {"reference_answer": group["gold"]} if group["gold"] else {}
    question = group["messages"][-1]["content"]
    rows = [
        {"question": question, "response": texts[j["sample_ids"][0]], "critique": j["text"], **gold}
        for j in judged.values()
    ]
    seed = record_seed(context.run_seed, context.recipe, context.iteration, group["prompt_id"], "claims")
    sampling = step.sampling
    settings = Settings(
        max_tokens=sampling.max_tokens, temperature=sampling.temperature, structured=step.structured, seed=seed
    )
    items = await ask_units(rows, Judging("meta_judge", version, speaker), settings)
    scores = {name: item.score for name, item in zip(judged, items, strict=True)}
    return [
        claims_meta_judgement(a, b, (scores[a["judgement_id"]], scores[b["judgement_id"]]), 0.0, order, version)
        for a, b in pairs for order in (0, 1)
    ]
