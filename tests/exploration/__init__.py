"""Exploration: the real engine under every order of fabric operations, on pools so small that every order can be tried."""
