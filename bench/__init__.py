"""The budgets of the design, measured: see bin/bench."""
