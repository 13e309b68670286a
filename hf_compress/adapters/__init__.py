"""The vocabularies of other frameworks, translated into steps, recipes and reports and back."""
