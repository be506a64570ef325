"""Embedding rows again with another model, while recall and writes go on."""
