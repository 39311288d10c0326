"""What is true and what is decided: the standard library only, no clock, socket, file, thread or log."""
