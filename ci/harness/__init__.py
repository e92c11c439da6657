"""What the harnesses that torture a server from outside share: starting it, its figures, raw frames. Standard library only."""
