"""How passes read a graph: nodes, operands, operators, recognised patterns."""
