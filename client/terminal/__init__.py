"""What a person sees: pure functions from what the manager says to text. Nothing here writes anywhere."""
