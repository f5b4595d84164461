"""Pictures and reports: they read what was recorded and compute nothing new."""
