"""What is done with a model that exists, without a recipe."""
