"""What the stages of one run share, and everything that is tried before any actor starts."""

from dataclasses import dataclass

from pipelines.checks import check_groups
from pipelines.config import RunConfig
from pipelines.ledger import Ledger
from pipelines.progress import RunProgress, tell_bad_rows
from pipelines.recipes import get_recipe
from pipelines.recipes.base import Context, NewPrompts, Recipe, SampleStep, Step
from pipelines.records import Group
from pipelines.steps.make_prompts import PromptSet, read_prompts
from pipelines.steps.new_prompts import prompt_requests


class RunError(RuntimeError):
    """The run cannot go on; the message says which stage, why, and what to do."""


@dataclass
class Run:
    """What the stages of one run share."""

    config: RunConfig
    ledger: Ledger
    model_folder: str
    prompts: list[Group]
    progress: RunProgress
    rows: dict[str, list[Group]]  # of the files that iterations take in place of the prompts

    @property
    def recipe(self) -> Recipe:
        """The method."""
        return get_recipe(self.config.recipe)

    def folder(self, version: int) -> str:
        """Checkpoint of weight version `v{version}`; an iteration without pairs leaves the one before it."""
        for iteration in reversed(range(version)):
            if not (self.ledger.done(iteration, "train") or {}).get("skipped"):
                return self.ledger.checkpoint_dir(iteration)
        return self.model_folder

    def sources(self, version: int) -> dict[str, tuple[str, str]]:
        """Weight version and checkpoint of every model while the policy is at `v{version}`."""
        from actors.checkpoints import resolve_model

        return {
            name: (f"v{version}", self.folder(version)) if model.path is None else ("frozen", resolve_model(model.path))
            for name, model in self.config.models.items()
        }

    def context(self, iteration: int) -> Context:
        """Where pure functions stand in this iteration."""
        return Context(self.config.seed, self.config.recipe, iteration)

    def generator(self, iteration: int) -> NewPrompts | None:
        """What is generated before this iteration, if anything."""
        return self.recipe.new_prompts(self.config.method, iteration)

    def followers(self) -> list[str]:
        """The models that follow training: all that have no checkpoint of their own."""
        return [name for name, model in self.config.models.items() if model.path is None]


def prepare(config: RunConfig, ledger: Ledger, progress: RunProgress) -> Run:
    """Everything that can fail is tried before any actor starts: model, rows, chat templates, templates, lengths."""
    from actors.chat import ChatFormat
    from actors.checkpoints import as_trained, resolve_model

    def read(source: str) -> PromptSet:
        found = read_prompts(source, None, config.on_bad_rows)
        tell_bad_rows(found.bad_rows, ledger, progress)
        return found

    if "://" in ledger.path:
        raise RunError(f"{ledger.path}: training needs a run folder that is mounted on every node; set runs_dir")
    folder = resolve_model(config.model)
    recipe = get_recipe(config.recipe)
    sources = [recipe.rows(config.method, iteration) for iteration in range(config.iterations)]
    prompts = read(config.prompts).groups
    rows = {source: read(source).groups for source in dict.fromkeys(sources) if source}
    run = Run(config, ledger, as_trained(folder), prompts, progress, rows)
    formats = {run.model_folder: ChatFormat.load(run.model_folder)}
    for name, (_, other) in run.sources(0).items():
        if other != run.model_folder:
            progress.say(f"{name} stays on {other}")
            formats[other] = ChatFormat.load(other)
    chats = {name: formats[other] for name, (_, other) in run.sources(0).items()}
    for source in [None, *rows]:
        iterations = [iteration for iteration, taken in enumerate(sources) if taken == source]
        steps = [step for iteration in iterations for step in recipe.steps(config.method, iteration)]
        where, groups = source or config.prompts, rows[source] if source else prompts
        check_groups(config, groups, steps, run.context(min(iterations, default=0)), chats, where)
    for iteration in range(config.iterations):
        if new := run.generator(iteration):
            context = run.context(iteration)
            requests = prompt_requests(new, prompts, [], context, range(1))
            check_groups(config, requests, asking(new), context, chats, "generator")
    return run


def asking(new: NewPrompts) -> list[Step]:
    """The step that asks the generator for a new prompt."""
    return [SampleStep(new.sampling, role="generator")]
