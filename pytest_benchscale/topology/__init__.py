"""What is declared: the topology file, its model, and what follows from it alone."""
