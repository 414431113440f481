"""Measures the speed of the `local` backend and of the plugin, side by side with peers."""
