"""Pass-by-pass ablation: what each pass changes, and what it is predicted to win."""
