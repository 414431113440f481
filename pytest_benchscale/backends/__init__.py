"""Where a lab runs. One module or package a backend."""
