"""Rows of the command table, by group."""
