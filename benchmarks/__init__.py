"""Measures the speed of the backends and of the plugin, side by side with peers."""
