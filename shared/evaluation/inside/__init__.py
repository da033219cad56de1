"""What runs in the sandboxed child: its walls first, then the program's server.

Nothing here is imported by the parent but what reads answers and knows the walls' needs.
Only these files may `exec` and `eval`.
"""
