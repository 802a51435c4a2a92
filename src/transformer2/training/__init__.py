"""Training of experts: one loop, two sources of samples (the policy's own answers, the reference answers)."""
