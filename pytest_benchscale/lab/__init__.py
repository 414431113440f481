"""How a lab lives: bring-up and teardown, nodes, and the thread that all of it runs on."""
