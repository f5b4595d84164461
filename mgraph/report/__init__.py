"""Pictures and reports: they read what was recorded and never compute science."""
