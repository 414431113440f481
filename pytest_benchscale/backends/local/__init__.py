"""The embedded backend: nodes made of Linux namespaces."""
