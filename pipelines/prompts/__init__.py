"""The prompts of the roles: one Jinja file each, versioned by the hash of its content.

Variables hold text written by users and models. Jinja inserts it verbatim: it is never compiled, so nothing in it can
become template code, and a missing variable is an error rather than an empty prompt.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from pipelines.prompts.scenarios import FILE as SCENARIOS
from pipelines.prompts.scenarios import scenario

FOLDER = Path(__file__).parent
PARTS = {"criteria": "<question>\n", "reference": "</question>\n"}  # part: the line before or after which it stands
_ENVIRONMENT = SandboxedEnvironment(
    undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True  # plain text, not HTML
)
_ENVIRONMENT.globals["scenario"] = scenario  # ty: ignore[invalid-assignment]


@dataclass(frozen=True)
class Template:
    """One prompt. `hash` is the first 16 hex characters of a sha256: records carry it as `prompt_hash`.

    It is of the file, of the parts asked for with it, and of scenarios.yaml too where the prompt shows its criteria.
    """

    name: str
    source: str
    hash: str
    compiled: jinja2.Template

    def render(self, **variables: Any) -> str:
        """The prompt filled with text, or lists of it; raises jinja2.UndefinedError where a variable is missing."""
        return self.compiled.render(**variables)


def names() -> list[str]:
    """Every template by name; parts are none."""
    return sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.stem.startswith("part_"))


@cache
def load(name: str) -> Template:
    """The template called `name` (its file name without `.jinja`); raises ValueError for an unknown one.

    `judge_pairwise+criteria+reference` is a judge's template with a part that shows criteria (variables `criteria`,
    `meta`) before the question and one that shows a `reference` after it.
    """
    base, *parts = name.split("+")
    if base not in names() or not set(parts) <= PARTS.keys() or len(set(parts)) < len(parts):
        known = f"templates are {', '.join(names())}, parts that a judge's can have are {', '.join(PARTS)}"
        raise ValueError(f"no prompt template named {name!r}; {known}")
    contents = [(FOLDER / f"{file}.jinja").read_bytes() for file in (base, *(f"part_{part}" for part in sorted(parts)))]
    source = contents[0].decode("utf-8")
    for part, content in zip(sorted(parts), contents[1:], strict=True):
        if source.count(f"\n{PARTS[part]}") != 1:
            raise ValueError(f"template {base} shows no question of its own: it cannot have the part {part!r}")
        shown, place = content.decode("utf-8"), PARTS[part]
        source = source.replace(f"\n{place}", f"\n{place}{shown}" if part == "reference" else f"\n{shown}{place}")
    hashed = b"".join(contents) + (SCENARIOS.read_bytes() if "scenario(" in source else b"")
    return Template(
        name=name, source=source, hash=hashlib.sha256(hashed).hexdigest()[:16],
        compiled=_ENVIRONMENT.from_string(source),
    )
