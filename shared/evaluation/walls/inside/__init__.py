"""What runs in the sandboxed child: its walls first, then the program's server.

The parent imports of this only the form of messages. Only these files may `exec` and
`eval`.
"""
