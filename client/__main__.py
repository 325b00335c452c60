"""`python -m client` is `fleetgate`."""

from client.cli import main

main()
