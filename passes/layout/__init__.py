"""The layout of each value: tokens last or channels first, chosen as a minimum cut."""
