"""The images of a saved model: those of its run, or others that are named. Nothing is loaded here."""

from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import user_path
from hf_compress.report.run import RECIPE
from hf_compress.run.recipe import Recipe
from hf_compress.sections.data import DataSection


def own_recipe(name: str) -> Recipe | None:
    """Return the recipe of a run folder; None of whatever else has a name."""
    file = user_path(name) / RECIPE
    return Recipe.load(file) if file.is_file() else None


def data_section(name: str, data_path: str | None) -> tuple[DataSection, int, bool]:
    """Return section and seed of a run's own recipe where it used the same data, so that its test images stay such.

    The third says whether it is its own.

    Raises:
        UsageError: no data was named, and the folder has no recipe that names it.
    """
    recipe = own_recipe(name)
    if recipe is not None and (data_path is None or _same_path(data_path, recipe.data.path)):
        return recipe.data.model_copy(update={"unlabelled": []}), recipe.seed, True
    if data_path is None:
        if not user_path(name).exists():
            raise UsageError(f"there is no folder '{name}'; of a model of the Hub, --data says on which images")
        raise UsageError(f"'{name}' has no {RECIPE} that names its data: pass --data")
    return DataSection(path=data_path), 0, False


def _same_path(first: str, second: str) -> bool:
    return user_path(first).resolve() == user_path(second).resolve()
