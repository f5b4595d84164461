"""Low-loss path finding: settings, runner, report and picture."""
