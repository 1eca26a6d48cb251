"""The Label tab: a table in, the same table with labels out."""
