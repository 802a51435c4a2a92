"""Self-adaptation (Section 3.2): dispatch by prompt or by classification expert, and few-shot search over mixes."""
