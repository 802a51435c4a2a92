"""Self-adaptation (Section 3.3): dispatch by prompt or by classification expert, and few-shot search over mixes."""
