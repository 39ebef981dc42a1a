"""What both verbs return, on disk and as tables too; and long runs in pieces."""
