"""Connection methods: one small class each, from modes and a task to the control points that join them."""
