"""Mutation testing: one changed line at a time in the code that decides, and the tests that must notice it."""
