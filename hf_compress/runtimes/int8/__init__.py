"""How files become int8."""
