"""The report of a run, and what is made of it: card, figures, tables, gallery."""
