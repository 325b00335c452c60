"""The sub-commands, a module for each kind; client/cli.py imports one when it is used."""
