"""Student selection: `student: auto` finds the registered architecture and width that is best within a budget."""
