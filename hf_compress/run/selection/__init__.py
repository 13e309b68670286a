"""Student selection: `student: auto` finds the registered architecture and width that is best within a budget.

It is for classification alone, since all candidates are image classifiers, compared by accuracy: `Task.check_recipe`
refuses other tasks.
"""
