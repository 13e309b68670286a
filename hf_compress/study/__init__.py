"""Studies: several runs that share data, training and seeds, and one table of all of them."""
