"""`python -m knocker`, the same as the command `knocker`."""

from knocker.cli import main

main()
