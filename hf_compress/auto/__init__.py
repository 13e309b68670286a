"""The search for the best model of a device: candidates are judged without training, and the best of them trained."""
