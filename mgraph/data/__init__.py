"""Data: tasks, splits that live on the device, and the sources that a spec string can name."""
