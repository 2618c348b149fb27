"""From a model and a source to trained weights."""
