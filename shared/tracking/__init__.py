"""Where metrics go, what the terminal shows, what a step computes."""
