"""What a person touches in the terminal, and the SDK below it (client/sdk.py). Knows the manager by its HTTP alone."""
