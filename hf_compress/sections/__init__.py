"""The sections of a recipe: strict pydantic models that import nothing heavy."""
