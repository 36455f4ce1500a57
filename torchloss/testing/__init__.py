"""What the losses are tested with, for your own losses too."""
