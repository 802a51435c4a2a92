"""What the papers report beside what a run measured, as tables, figures and pages."""
