"""The tables of the two documents: what they report, what a run measured, and both rendered side by side."""
