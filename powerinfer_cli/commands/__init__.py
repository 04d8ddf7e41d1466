"""One file a subcommand: flags -> options -> engine -> terminal."""
