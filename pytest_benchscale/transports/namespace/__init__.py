"""Into a node made of Linux namespaces: commands through its init, files through its root.

`linux` and `channel` are stdlib only and cheap to import: the processes of the `local` backend,
which must start fast and stay small, use them too.
"""
