"""ANE planner: where each operator runs, why, and what it is predicted to cost."""
