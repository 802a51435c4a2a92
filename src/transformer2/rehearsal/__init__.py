"""The rehearsal of a run: its whole grid, rule by rule, with tiny models of random weights and made-up rows."""
