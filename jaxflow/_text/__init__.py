"""What is written for people: values in messages by their shapes, tables as text, bars of progress."""
