"""What several commands share: flags, the page of help, the terminal."""
