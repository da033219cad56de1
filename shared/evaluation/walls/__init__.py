"""What keeps a program in its place, and what it is started and watched by."""
