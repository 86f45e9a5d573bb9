"""The runtimes of exported models, one in a file."""
