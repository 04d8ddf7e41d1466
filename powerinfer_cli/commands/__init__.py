"""The subcommands: flags -> options -> engine -> terminal. A file each, or a folder where there is more."""
