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
_ENVIRONMENT = SandboxedEnvironment(
    undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True  # plain text, not HTML
)
_ENVIRONMENT.globals["scenario"] = scenario  # ty: ignore[invalid-assignment]


@dataclass(frozen=True)
class Template:
    """One prompt. `hash` is the first 16 hex characters of a sha256: records carry it as `prompt_hash`.

    It is of the file, and of scenarios.yaml too where the prompt shows criteria from there.
    """

    name: str
    source: str
    hash: str
    compiled: jinja2.Template

    def render(self, **variables: Any) -> str:
        """The prompt filled with text, or lists of it; raises jinja2.UndefinedError where a variable is missing."""
        return self.compiled.render(**variables)


def names() -> list[str]:
    """Every template by name."""
    return sorted(path.stem for path in FOLDER.glob("*.jinja"))


@cache
def load(name: str) -> Template:
    """The template called `name` (its file name without `.jinja`); raises ValueError for an unknown one."""
    if name not in names():
        raise ValueError(f"no prompt template named {name!r}; templates are {', '.join(names())}")
    content = (FOLDER / f"{name}.jinja").read_bytes()
    source = content.decode("utf-8")
    hashed = content + SCENARIOS.read_bytes() if "scenario(" in source else content
    return Template(
        name=name, source=source, hash=hashlib.sha256(hashed).hexdigest()[:16],
        compiled=_ENVIRONMENT.from_string(source),
    )
