"""The cases: each module has a `measure` function, whose parameters are the options of its command."""
