"""What a recipe may only do when the user says so beside it: run a repository's Python code, and publish."""

from __future__ import annotations

from hf_compress.ground.errors import UsageError
from hf_compress.models.students import STUDENTS
from hf_compress.run.recipe import Recipe
from hf_compress.sections.models import AUTO, ModelSection


def permitted(recipe: Recipe, trust_remote_code: bool, publish: bool) -> Recipe:
    """Return the recipe as the user allows it: with trust in all its models, or in none.

    Args:
        trust_remote_code: the user's word, `--trust-remote-code`; it counts for teacher, ensemble members, assistants
            and student alike.
        publish: the user's word, `--publish`.

    Raises:
        UsageError: the recipe asks for what the user did not allow, or is to be published and does not say where.
    """
    asks = next((key for key, section in _models(recipe).items() if section.trust_remote_code), None)
    if asks and not trust_remote_code:
        raise UsageError(
            f"'{asks}.trust_remote_code' asks to run the Python code of a repository: read that code, then pass "
            "--trust-remote-code (in Python trust_remote_code=True)"
        )
    if recipe.publish and not publish:
        raise UsageError(
            f"'publish.to' asks to send the result to {recipe.publish.to} on the Hub: allow it by --publish (in "
            "Python publish=True), or leave it out by --set publish=null"
        )
    if publish and not recipe.publish:
        raise UsageError("--publish needs a section 'publish' in the recipe, for example --set publish.to=user/name")
    if trust_remote_code:
        recipe = recipe.model_copy(deep=True)
        for section in _models(recipe).values():
            section.trust_remote_code = True
    return recipe


def _models(recipe: Recipe) -> dict[str, ModelSection]:
    """Return the sections whose models may come from a repository, by key path."""
    sections = recipe.teachers | recipe.students
    return {key: section for key, section in sections.items() if section.model not in (*STUDENTS, AUTO, "teacher")}
