"""Where knocks and questions arrive."""
