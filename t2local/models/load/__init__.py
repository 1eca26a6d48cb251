"""Loading: fetch a model, read it in float, NF4 or int8, and say in a sentence what went wrong."""
