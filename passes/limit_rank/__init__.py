"""Values of more than five axes get by with fewer."""
