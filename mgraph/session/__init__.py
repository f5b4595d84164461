"""An open graph at work: its spaces, its runs and their saved states, and how points are loaded and stored."""
