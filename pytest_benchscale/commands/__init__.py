"""The subcommands of `benchscale`: each module adds its own to the command line, and carries them out."""
